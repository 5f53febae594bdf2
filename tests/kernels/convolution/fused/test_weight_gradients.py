"""Weight gradients of a backward, made together: the same bits as one by one."""

import pytest
import torch
from child import interpreted
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastass.kernels import ConvNorm, folded_once, gradients_together
from fastass.kernels.convolution.fused import weight_gradients
from fastass.kernels.convolution.fused.weight_gradients import scaled
from fastass.kernels.convolution.residual import block

CL = torch.channels_last
# Rows of every length; the last but one is in channels-first memory.
SHAPES = ((3, 5, 7, 7), (64, 65, 1, 1), (2, 700, 3, 3), (4, 3, 3, 3), (1, 1, 1, 1))


def draw(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters() -> list[Tensor]:
    made = [draw(*shape, seed=i).contiguous(memory_format=CL) for i, shape in enumerate(SHAPES)]
    made[3] = made[3].contiguous()
    return [weight.requires_grad_() for weight in made]


def send(weights: list[Tensor], seed: int) -> list[Tensor | None]:
    """What each weight gets back for a gradient in bf16; the first one has no scale."""
    found = []
    for i, weight in enumerate(weights):
        gradient = draw(*weight.shape, dtype=torch.bfloat16, seed=seed + i)
        scale = draw(weight.shape[0], seed=30 + i) if i else None
        found.append(scaled(gradient.contiguous(memory_format=CL), scale, weight))
    return found


def check_bits() -> None:
    """Runs where TRITON_INTERPRET=1: two backwards, of which one reaches the weights twice."""
    weights = parameters()
    one, two, three = (send(weights, seed) for seed in (100, 200, 300))
    with gradients_together():
        assert send(weights, 100) == [None] * len(weights)
        assert all(weight.grad is None for weight in weights)
    for weight, a in zip(weights, one, strict=True):
        assert torch.equal(weight.grad, a)  # type: ignore[arg-type]
        assert weight.grad.stride() == weight.stride()  # type: ignore[union-attr]
    with gradients_together():
        send(weights, 200)
        send(weights, 300)
    for weight, *parts in zip(weights, one, two, three, strict=True):
        a, b, c = parts
        assert torch.equal(weight.grad, a + b + c)  # type: ignore[arg-type, operator]
    kept = weights[0]._fastass_starts[1]  # type: ignore[attr-defined]
    with gradients_together():
        send(weights, 100)
    assert weights[0]._fastass_starts[1] is kept  # type: ignore[attr-defined]


def check_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block with a frozen norm, a weight that needs no gradient, one that is no leaf; with
    activations that are computed again too."""
    monkeypatch.setattr(block, "_is_one_node", lambda x: True)
    x = draw(2, 8, 5, 7, dtype=torch.bfloat16).contiguous(memory_format=CL)

    def run(wanted: bool, again: bool = False) -> list[Tensor | None]:
        norm = draw(8, seed=5).abs(), draw(8, seed=6)
        weights = [
            draw(8, 8, k, k, seed=k).contiguous(memory_format=CL).requires_grad_() for k in (1, 3)
        ]
        weights.append(draw(8, 8, 1, 1, seed=9))
        made = [*weights, weights[0] * 2]
        layers = [ConvNorm(w, 1, w.shape[-1] // 2, 1, norm) for w in made]
        with folded_once():
            for sign in (1, -2):
                if again:
                    y = checkpoint(
                        block.residual_block, sign * x, layers, None, use_reentrant=False
                    )
                else:
                    y = block.residual_block(sign * x, layers, None)
                with gradients_together(wanted):
                    y.float().square().sum().backward(retain_graph=True)
        return [weight.grad for weight in weights]

    *theirs, none = run(False)
    for *ours, also_none in (run(True), run(True, again=True)):
        assert none is also_none is None
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def check_errors() -> None:
    """A backward that fails leaves the gradients that were there, and nothing for later."""
    weights = parameters()

    def fail() -> None:
        send(weights, 100)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), gradients_together():
        fail()
    assert all(weight.grad is None for weight in weights)
    with gradients_together():
        send(weights, 200)
    for weight, expected in zip(weights, send(weights, 200), strict=True):
        assert torch.equal(weight.grad, expected)  # type: ignore[arg-type]


def test_in_the_interpreter() -> None:
    interpreted(__file__)


def test_off_a_gpu_and_where_hooks_wait_each_weight_gets_its_own() -> None:
    weights = parameters()
    for wanted in (True, False):
        with gradients_together(wanted):
            found = send(weights, 100)
        assert all(gradient is not None for gradient in found)


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # new memory holds NaN
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(weight_gradients, "_fits", lambda of_product, weight: weight.is_leaf)
        check_bits()
        check_blocks(patched)
        check_errors()
