"""The operators of training and evaluation, each with three implementations of one contract.

`use` chooses among reference (plain torch), native (C++, CPU tensors), triton (CUDA tensors) and
auto; `available` says what this machine can run.
"""

from fastass.kernels.class_mean.op import class_mean
from fastass.kernels.convolution.batch_norm import batch_norm
from fastass.kernels.convolution.conv2d import conv2d
from fastass.kernels.convolution.conv_frozen_bn import conv_frozen_bn
from fastass.kernels.convolution.cpu_forms import without_winograd
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.folding import folded_once
from fastass.kernels.convolution.fused.choice import describe_fused, use_fused
from fastass.kernels.convolution.fused.weight_gradients import gradients_together
from fastass.kernels.convolution.leaky_conv_stack import leaky_conv_stack, leaky_conv_stack_twice
from fastass.kernels.convolution.multi_dilation_conv import multi_dilation_conv
from fastass.kernels.convolution.norm.op import use_fused_batch_norm
from fastass.kernels.convolution.recompute import recomputed_outputs
from fastass.kernels.convolution.residual.block import residual_block
from fastass.kernels.convolution.residual.layer import ConvNorm, conv_norm
from fastass.kernels.convolution.winograd.conv3x3 import conv3x3, conv3x3_gradients
from fastass.kernels.dispatch import OLDEST_CAPABILITY, available, choice, resolve, use
from fastass.kernels.pixel_discriminator_loss.op import pixel_discriminator_loss
from fastass.kernels.upsample.confusion import upsample_confusion
from fastass.kernels.upsample.cross_entropy import upsample_cross_entropy
from fastass.kernels.upsample.pixel_weights import PixelWeights
from fastass.kernels.upsample.pseudo_labels import PseudoLabels, upsample_pseudo_labels
from fastass.kernels.upsample.softmax import upsample_softmax

__all__ = [
    "OLDEST_CAPABILITY",
    "ConvNorm",
    "PixelWeights",
    "PseudoLabels",
    "available",
    "batch_norm",
    "choice",
    "class_mean",
    "conv2d",
    "conv3x3",
    "conv3x3_gradients",
    "conv_frozen_bn",
    "conv_norm",
    "convolution_epilogue_",
    "describe_fused",
    "folded_once",
    "gradients_together",
    "leaky_conv_stack",
    "leaky_conv_stack_twice",
    "multi_dilation_conv",
    "pixel_discriminator_loss",
    "recomputed_outputs",
    "residual_block",
    "resolve",
    "upsample_confusion",
    "upsample_cross_entropy",
    "upsample_pseudo_labels",
    "upsample_softmax",
    "use",
    "use_fused",
    "use_fused_batch_norm",
    "without_winograd",
]
