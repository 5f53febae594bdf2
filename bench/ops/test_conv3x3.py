"""The 3×3 convolutions of the networks: NCHW, channels-last, its compiled form, split, ours.

The layers are those of ResNet's four stages for a 512×256 image, the third for a 1280×720 one, and
those of ToyCity's network. "split" is what `kernels.conv2d` runs without Winograd's form:
channels-last, but for the gradient of a wide layer's weight. The limit is the matrix multiply rate
for the products that Winograd's form takes.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fastass.kernels import conv2d, without_winograd
from fastass.kernels.convolution.winograd.conv3x3 import output_tile, saving

from .conftest import Contest, Side


class Layer(NamedTuple):
    """Channels, the size of the map, dilation."""

    inputs: int
    outputs: int
    height: int
    width: int
    dilation: int


LAYERS = {  # for a 512×256 image where nothing else is said
    "stage 1": Layer(64, 64, 65, 129, 1),
    "stage 2": Layer(128, 128, 33, 65, 1),
    "stage 3": Layer(256, 256, 33, 65, 2),
    "stage 4": Layer(512, 512, 33, 65, 4),
    "stage 3, 1280×720": Layer(256, 256, 91, 161, 2),
    "ToyCity, stage 3": Layer(32, 96, 17, 33, 2),
    "ToyCity, stage 4": Layer(96, 96, 17, 33, 4),
}


@pytest.mark.parametrize("passes", ["forward", "forward+backward"])
@pytest.mark.parametrize("name", LAYERS)
def test_conv3x3(contest: Contest, device: torch.device, name: str, passes: str) -> None:
    if device.type != "cpu":
        pytest.skip("the convolutions of a GPU are cuDNN's")
    inputs, outputs, h, w, d = LAYERS[name]
    training = passes != "forward"
    torch.manual_seed(0)
    nchw = nn.Conv2d(inputs, outputs, 3, padding=d, dilation=d, bias=False)
    last = nn.Conv2d(inputs, outputs, 3, padding=d, dilation=d, bias=False)
    last.load_state_dict(nchw.state_dict())
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        """x and the gradient of y, channels-last and NCHW."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, h, w, inputs, generator=generator).relu().permute(0, 3, 1, 2)
        g = torch.randn(1, h, w, outputs, generator=generator).permute(0, 3, 1, 2)
        return x.requires_grad_(), g, x.detach().contiguous().requires_grad_(), g.contiguous()

    def side(
        layer: nn.Conv2d, convolve: Callable[[Tensor], Tensor], *, winograd: bool = False
    ) -> Side:
        def run(*given: Tensor) -> tuple[Tensor, ...]:
            x, g = given[2:] if layer is nchw else given[:2]
            with nullcontext() if winograd else without_winograd():
                with torch.set_grad_enabled(training):
                    y = convolve(x)
                if not training:
                    return (y,)
                return (y, *torch.autograd.grad(y, [x, layer.weight], g))

        return run

    def ours(x: Tensor) -> Tensor:
        return conv2d(x, last.weight, padding=d, dilation=d)

    x = torch.empty(1, inputs, h, w)
    tiles = [output_tile(x, inputs, d)]
    if training:
        tiles += [output_tile(x, outputs, d), 2]
    flops = sum(2 * 9 * h * w * inputs * outputs / saving(h, w, d, tile) for tile in tiles)
    contest(
        op=f"conv3x3, {name}",
        passes=passes,
        sides={
            "reference": side(nchw, nchw),
            "channels-last": side(last, last),
            "compiled channels-last": side(last, torch.compile(last)),
            "split": side(last, ours),
            "fastass": side(last, ours, winograd=True),
        },
        make_inputs=make_inputs,
        bytes_moved=4 * h * w * (inputs + outputs) * len(tiles),
        flops=int(flops),
        atol=1e-5,
    )
