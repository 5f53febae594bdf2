"""The operators of training and evaluation, each with three implementations of one contract.

`use` chooses among reference (plain torch), native (C++, CPU tensors), triton (CUDA tensors) and
auto; `available` says what this machine can run.
"""

from fastass.kernels.class_mean import class_mean
from fastass.kernels.convolution3x3 import convolution3x3, convolution3x3_gradients
from fastass.kernels.convolution_epilogue import convolution_epilogue_
from fastass.kernels.dispatch import available, choice, resolve, use
from fastass.kernels.pixel_discriminator_loss import pixel_discriminator_loss
from fastass.kernels.upsample_confusion import upsample_confusion
from fastass.kernels.upsample_cross_entropy import upsample_cross_entropy
from fastass.kernels.upsample_softmax import upsample_softmax

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
