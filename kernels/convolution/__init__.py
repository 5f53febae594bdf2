"""Convolutions and what surrounds them, each in the form that the device computes fastest.

The networks call `conv2d`, `conv_frozen_bn`, `batch_norm`, `multi_dilation_conv` and
`leaky_conv_stack`. Everything else here serves those.
"""
