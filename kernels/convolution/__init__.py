"""Convolutions and what surrounds them, each in the form that the device computes fastest.

The networks call `residual_block`, `conv_norm`, `conv2d`, `multi_dilation_conv` and
`leaky_conv_stack`. Everything else here serves those.
"""
