"""The operators of training and evaluation, each with three implementations of one contract.

`use` chooses among reference (plain torch), native (C++, CPU tensors), triton (CUDA tensors) and
auto; `available` says what this machine can run.
"""

from fastass.kernels.class_mean.op import class_mean
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.winograd.conv3x3 import convolution3x3, convolution3x3_gradients
from fastass.kernels.dispatch import available, choice, resolve, use
from fastass.kernels.pixel_discriminator_loss.op import pixel_discriminator_loss
from fastass.kernels.upsample.confusion import upsample_confusion
from fastass.kernels.upsample.cross_entropy import upsample_cross_entropy
from fastass.kernels.upsample.softmax import upsample_softmax

__all__ = [
    "available",
    "choice",
    "class_mean",
    "convolution3x3",
    "convolution3x3_gradients",
    "convolution_epilogue_",
    "pixel_discriminator_loss",
    "resolve",
    "upsample_confusion",
    "upsample_cross_entropy",
    "upsample_softmax",
    "use",
]
