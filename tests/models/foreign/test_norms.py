"""Other packages' batch norms, without these packages; and what is said where one is missing."""

import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastass.errors import UserError
from fastass.kernels.convolution.running_statistics import collected
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.foreign.norms import collect_batch_statistics


class NormAct(nn.BatchNorm2d):
    """As timm's: an activation belongs to the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, NormAct])
def test_statistics_are_handed_over_only_where_they_are_collected(kind: type[nn.Module]) -> None:
    plain, ours = nn.Sequential(kind(3)), nn.Sequential(kind(3))
    collect_batch_statistics(ours, "x")
    assert isinstance(ours[0], kind)
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with collected() as seen:
        y = ours(x)
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(ours.state_dict(), before)
    torch.testing.assert_close(seen[0].mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(seen[0].variance, x.var((0, 2, 3)))
    torch.testing.assert_close(ours.eval()(x), ours(x))


def test_a_forward_that_the_backward_repeats_feeds_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    collect_batch_statistics(network, "x")
    x = torch.randn(2, 3, 5, 6, requires_grad=True)
    with collected() as seen:
        y = checkpoint(network, x, use_reentrant=False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    y.square().sum().backward()
    assert len(seen) == 1
    torch.testing.assert_close(network.state_dict(), before)
    (again,) = torch.autograd.grad(network(x).square().sum(), x)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, again)


def test_another_norm_is_refused() -> None:
    with pytest.raises(UserError, match="its norm 0 is a BatchNorm1d, and only BatchNorm2d"):
        collect_batch_statistics(nn.Sequential(nn.BatchNorm1d(3)), "timm:x")


@pytest.mark.parametrize(
    ("name", "package"), [("hf:owner/name", "transformers"), ("timm:resnet18", "timm")]
)
def test_a_missing_package_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"{package} can't be imported .*pip install '{package}>="):
        build_deeplab(ModelConfig(backbone=name))
