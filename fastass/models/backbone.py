"""What a backbone must have, whoever wrote it."""

from torch import nn


class Backbone(nn.Module):
    """images float [B,3,H,W] → (features F [B,N,h,w], features of stage 3 [B,M,h',w'] or None).

    h and w are about H and W divided by `output_stride`; the two maps may differ in size.
    """

    out_channels: int
    """N, the channels of F."""
    aux_channels: int | None = None
    """M, the channels of stage 3; None if there is no second output (`heads=multi` needs it)."""
    output_stride: int = 8

    def layers(self) -> list[list[nn.Parameter]]:
        """All trainable parameters by layer, from the images to F: for layer-wise rates."""
        layers = [[p for p in m.parameters() if p.requires_grad] for m in self.children()]
        return [layer for layer in layers if layer]
