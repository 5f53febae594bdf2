"""What `torch.compile` needs to be told once per process."""


def keep_channels_last() -> None:
    """Every convolution of a compiled graph reads and returns NHWC.

    By itself inductor decides by the graph's convolutions: where one has far fewer outputs than
    inputs, as the last of D_g, it leaves the layout as it finds it. That layer's single output
    channel fits any layout, so its input was copied into one that cuDNN has no kernels for.
    """
    import torch._inductor.config as inductor  # a step that is not compiled loads no compiler

    inductor.force_layout_optimization = True
