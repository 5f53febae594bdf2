"""Batch norm over CPU ranks: what one process computes of all images, in float64."""

from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from fastass import kernels
from fastass.kernels.convolution.running_statistics import collected
from fastass.runtime.process_group import World

CHANNELS, PIXELS = 5, (3, 4)


def images(total: int) -> tuple[Tensor, Tensor]:
    """x with a mean far from 0, on which a sum of squares would lose digits; a gradient of y."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(total, CHANNELS, *PIXELS, generator=g, dtype=torch.float64)
    x = x * torch.arange(1.0, 6).view(-1, 1, 1) + 1e3
    return x, torch.randn(x.shape, generator=g, dtype=torch.float64)


def make(kind: type[nn.Module], affine: bool, momentum: float | None, dtype: torch.dtype) -> Any:
    norm = kind(CHANNELS, affine=affine, momentum=momentum).to(dtype)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))  # type: ignore[operator]
            norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))  # type: ignore[operator]
    return norm


def run(
    norm: Any, x: Tensor, gradient: Tensor, residual: bool, collecting: bool
) -> dict[str, Tensor]:
    """Two forwards and backwards → outputs, gradients of the last one, running statistics."""
    found = {}
    seen: list[Any] = []
    for _ in range(2):
        norm.zero_grad()
        leaf = x.clone().requires_grad_()
        other = leaf if residual else None
        if collecting:
            with collected() as seen:
                y = kernels.batch_norm(leaf, norm, residual=other, relu=True)
        else:
            y = kernels.batch_norm(leaf, norm, residual=other, relu=True)
        y.backward(gradient)
        assert leaf.grad is not None
        found = {"y": y.detach(), "dx": leaf.grad}
    found |= {f"d{n}": p.grad for n, p in norm.named_parameters() if p.grad is not None}
    found |= {n: b.clone() for n, b in norm.named_buffers()}
    for s in seen:
        found |= {"seen mean": s.mean, "seen variance": s.variance}
    return found


CASES = [
    # cuts of the images over the ranks, affine, momentum, residual, collecting
    ((4, 4), True, 0.1, False, False),
    ((4, 4), True, 0.3, True, True),
    ((7, 1), True, 0.1, True, False),
    ((1, 0), True, 0.1, False, False),
    ((3, 5), False, None, False, False),
]


def on_rank(world: World, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    found = []
    for cut, affine, momentum, residual, collecting in CASES:
        x, gradient = (t.to(dtype) for t in images(sum(cut)))
        first = sum(cut[: world.rank])
        own = slice(first, first + cut[world.rank])
        norm = make(nn.SyncBatchNorm, affine, momentum, dtype)
        found.append(run(norm, x[own], gradient[own], residual, collecting))
    return found


@pytest.mark.parametrize(
    ("dtype", "close"),
    [(torch.float64, 1e-9), (torch.float32, 1e-3)],
)
def test_two_ranks_are_one_batch(dtype: torch.dtype, close: float) -> None:
    ranks = run_ranks(2, on_rank, dtype)
    for i, (cut, affine, momentum, residual, collecting) in enumerate(CASES):
        x, gradient = images(sum(cut))
        norm = make(nn.BatchNorm2d, affine, momentum, torch.float64)
        whole = run(norm, x, gradient, residual, collecting)
        first, second = ranks[0][i], ranks[1][i]
        assert first.keys() == whole.keys()
        for name, wanted in whole.items():
            if name in ("y", "dx"):
                ours = torch.cat([first[name], second[name]])
            elif name in ("dweight", "dbias"):
                ours = first[name] + second[name]
            else:
                assert torch.equal(first[name], second[name]), name
                ours = first[name]
            torch.testing.assert_close(
                ours.to(wanted), wanted, rtol=close, atol=close, msg=f"{cut} {name}"
            )


def refused(world: World) -> str:
    norm = nn.SyncBatchNorm(CHANNELS)
    try:
        kernels.batch_norm(torch.randn(1 - world.rank, CHANNELS, 1, 1), norm)
    except ValueError as error:
        return str(error)
    return "nothing"


def in_evaluation(world: World) -> bool:
    norm, x = nn.SyncBatchNorm(CHANNELS).eval(), torch.randn(2, CHANNELS, *PIXELS)
    with torch.no_grad():
        alone = norm(x)
    return torch.equal(kernels.batch_norm(x, norm), alone)


def test_one_value_has_no_variance() -> None:
    for message in run_ranks(2, refused):
        assert "more than 1 value per channel" in message


def test_an_evaluation_exchanges_nothing() -> None:
    assert run_ranks(2, in_evaluation) == [True, True]


def test_one_process_is_batch_norm() -> None:
    x, gradient = images(4)
    sync = make(nn.SyncBatchNorm, True, 0.1, torch.float64)
    batch = make(nn.BatchNorm2d, True, 0.1, torch.float64)
    ours, theirs = (run(norm, x, gradient, False, True) for norm in (sync, batch))
    for name, wanted in theirs.items():
        torch.testing.assert_close(ours[name], wanted, rtol=1e-12, atol=1e-12)
