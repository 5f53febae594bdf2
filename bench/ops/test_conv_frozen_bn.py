"""A bottleneck's last convolution with frozen norm, residual sum and ReLU: the norm as a layer,
folded with torch's operators, the compiled form of that, ours.

The size is that of the third stage in training: one 1280×720 image (eight on a GPU), 256 → 1024
channels. The limit counts each map once where it must be read or written.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels import conv_frozen_bn

from .conftest import Contest, Side

INPUTS, OUTPUTS, SIZE = 256, 1024, (91, 161)


@pytest.mark.parametrize("passes", ["forward", "forward+backward"])
def test_conv_frozen_bn(
    contest: Contest, device: torch.device, dtype: torch.dtype, passes: str
) -> None:
    B = 8 if device.type == "cuda" else 1
    torch.manual_seed(0)
    layer = nn.Conv2d(INPUTS, OUTPUTS, 1, bias=False, device=device, dtype=dtype)
    scale, shift = torch.rand(OUTPUTS, device=device) + 0.5, torch.randn(OUTPUTS, device=device)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        """x, the residual, the gradient of y; all channels-last."""
        generator = torch.Generator(device).manual_seed(seed)

        def draw(channels: int) -> Tensor:
            rows = torch.randn(B, *SIZE, channels, generator=generator, device=device).to(dtype)
            return rows.permute(0, 3, 1, 2)

        x, residual = draw(INPUTS).requires_grad_(), draw(OUTPUTS).requires_grad_()
        return x, residual, draw(OUTPUTS)

    def layers(x: Tensor, residual: Tensor) -> Tensor:
        y = layer(x) * scale[:, None, None].to(dtype) + shift[:, None, None].to(dtype)
        return F.relu(y.add_(residual), inplace=True)

    def folded(x: Tensor, residual: Tensor) -> Tensor:
        weight = layer.weight * scale[:, None, None, None].to(dtype)
        return F.relu(F.conv2d(x, weight, shift.to(dtype)).add_(residual), inplace=True)

    def ours(x: Tensor, residual: Tensor) -> Tensor:
        return conv_frozen_bn(x, layer.weight, scale, shift, residual=residual, relu=True)

    def side(block: Callable[[Tensor, Tensor], Tensor]) -> Side:
        def run(x: Tensor, residual: Tensor, g: Tensor) -> tuple[Tensor, ...]:
            with torch.set_grad_enabled(passes != "forward"):
                y = block(x, residual)
            if passes == "forward":
                return (y,)
            return (y, *torch.autograd.grad(y, [x, layer.weight, residual], g))

        return run

    pixels = B * SIZE[0] * SIZE[1]
    # Forward reads x and the residual and writes y; backward reads the gradient and y, writes the
    # residual's gradient, reads that and x, and writes the gradient of x.
    maps = INPUTS + 2 * OUTPUTS
    if passes != "forward":
        maps += 4 * OUTPUTS + 2 * INPUTS
    contest(
        op="conv_frozen_bn",
        passes=passes,
        sides={
            "reference": side(layers),
            "folded": side(folded),
            "compiled folded": side(torch.compile(folded)),
            "fastass": side(ours),
        },
        make_inputs=make_inputs,
        bytes_moved=pixels * maps * dtype.itemsize,
        flops=2 * pixels * INPUTS * OUTPUTS * (1 if passes == "forward" else 3),
        norm=2e-2 if dtype == torch.bfloat16 else 1e-5,
    )
