"""D_g, the global discriminator: its layers in NCHW, channels-last, compiled, and ours with and
without Winograd's form.

The sizes are ToyCity's, four maps of 256×144 and 16 channels in the first layer, and the paper's
64 channels for one map of 512×256. The limit counts each map and its gradient once.
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels import leaky_conv_stack, without_winograd

from .conftest import Contest, Side

SLOPE = 0.2
SIZES = {"ToyCity": (4, 16, 144, 256), "512×256": (1, 64, 256, 512)}  # B, width, H, W
CLASSES = 19


@pytest.mark.parametrize("passes", ["forward", "forward+backward"])
@pytest.mark.parametrize("name", SIZES)
def test_leaky_conv_stack(contest: Contest, device: torch.device, name: str, passes: str) -> None:
    if device.type != "cpu":
        pytest.skip("on a GPU the layers are cuDNN's")
    B, width, H, W = SIZES[name]
    training = passes != "forward"
    channels = (CLASSES, width, 2 * width, 4 * width, 8 * width, 1)
    torch.manual_seed(0)
    nchw = nn.ModuleList(nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairwise(channels))
    last = nn.ModuleList(nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairwise(channels))
    last.load_state_dict(nchw.state_dict())
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        """P in channels-last memory and in NCHW."""
        generator = torch.Generator().manual_seed(seed)
        P = torch.randn(B, CLASSES, H, W, generator=generator).softmax(1)
        return P.contiguous(memory_format=torch.channels_last).requires_grad_(), P.requires_grad_()

    def plain(layers: nn.ModuleList) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            for i, layer in enumerate(layers):
                x = layer(F.leaky_relu(x, SLOPE, inplace=True) if i else x)
            return x

        return run

    def ours(x: Tensor) -> Tensor:
        weights = [layer.get_parameter("weight") for layer in last]
        biases = [layer.get_parameter("bias") for layer in last]
        return leaky_conv_stack(x, weights, biases, negative_slope=SLOPE)

    def side(
        layers: nn.ModuleList, forward: Callable[[Tensor], Tensor], *, winograd: bool = True
    ) -> Side:
        def run(*given: Tensor) -> tuple[Tensor, ...]:
            x = given[1 if layers is nchw else 0]
            with nullcontext() if winograd else without_winograd():
                with torch.set_grad_enabled(training):
                    y = forward(x)
                if not training:
                    return (y,)
                return (y, *torch.autograd.grad(y.sum(), [x, *layers.parameters()]))

        return run

    sizes = [(c, H >> i, W >> i) for i, c in enumerate(channels)]
    values = B * sum(c * h * w for c, h, w in sizes)
    products = B * sum(16 * i * o * (h // 2) * (w // 2) for (i, h, w), (o, _, _) in pairwise(sizes))
    contest(
        op=f"leaky_conv_stack, {name}",
        passes=passes,
        sides={
            "reference": side(nchw, plain(nchw)),
            "channels-last": side(last, plain(last)),
            "compiled channels-last": side(last, torch.compile(plain(last))),
            "without Winograd": side(last, ours, winograd=False),
            "fastass": side(last, ours),
        },
        make_inputs=make_inputs,
        bytes_moved=4 * values * (2 if training else 1),
        flops=2 * products * (3 if training else 1),
        norm=5e-3,  # where a value rounds to the other side of zero, its slope is another
    )
