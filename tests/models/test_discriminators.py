import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.models.discriminators import (
    FeatureDiscriminator,
    GlobalDiscriminator,
    PixelDiscriminator,
)


def test_global_is_adaptsegnets() -> None:
    d_g = GlobalDiscriminator(19)
    convs = [m for m in d_g.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [64, 128, 256, 512, 1]
    assert [c.in_channels for c in convs] == [19, 64, 128, 256, 512]
    for conv in convs:
        assert (conv.kernel_size, conv.stride, conv.padding) == ((4, 4), (2, 2), (1, 1))
    # 16·(19·64 + 64·128 + 128·256 + 256·512 + 512) + 64 + 128 + 256 + 512 + 1
    assert sum(p.numel() for p in d_g.parameters()) == 2_781_121


def test_global_equals_its_layers_written_out() -> None:
    torch.manual_seed(0)
    d_g = GlobalDiscriminator(5, width=8).double()
    P = torch.rand(2, 5, 70, 100, dtype=torch.float64).softmax(1)
    x = P
    for i, layer in enumerate(d_g.layers):
        x = layer(x)
        if i < 4:
            x = F.leaky_relu(x, 0.2)
    assert torch.equal(d_g(P), x)
    assert x.shape == (2, 1, 2, 3)


def test_global_on_toycity_maps() -> None:
    assert GlobalDiscriminator(19, width=8)(torch.rand(1, 19, 128, 256)).shape == (1, 1, 4, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("width", [8, 64])  # 64: layers whose gradients are computed in two layouts
def test_global_twice_is_two_forwards(
    width: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Equal logits and gradients, of both losses together and of each alone."""
    torch.manual_seed(0)
    d_g = GlobalDiscriminator(5, width).to(dtype)
    P = torch.randn(2, 5, 70, 100, dtype=dtype).softmax(1)
    P = P.contiguous(memory_format=layout).requires_grad_()
    inputs = [P, *d_g.parameters()]

    def gradients(pair: tuple[Tensor, Tensor]) -> list[Tensor | None]:
        losses = [(pair[0] ** 2).sum(), (pair[1] - 1).abs().sum()]
        every: list[Tensor | None] = []
        for loss in (losses[0], losses[1], losses[0] + losses[1]):
            every += torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        return every

    shared, apart = d_g.twice(P), (d_g(P, frozen=True), d_g(P.detach()))
    for ours, theirs in zip(shared, apart, strict=True):
        assert torch.equal(ours, theirs)
    for a, b in zip(gradients(shared), gradients(apart), strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_global_twice_in_mixed_precision() -> None:
    d_g = GlobalDiscriminator(5, width=8)
    P = torch.rand(1, 5, 64, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        to_generator, own = d_g.twice(P)
    assert to_generator.dtype == own.dtype == torch.bfloat16
    (to_generator + own).sum().backward()
    assert P.grad is not None
    assert all(p.grad is not None for p in d_g.parameters())


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (8, 16)])
def test_global_refuses_small_maps(size: tuple[int, int]) -> None:
    d_g = GlobalDiscriminator(19, width=8)
    assert d_g(torch.rand(1, 19, 32, 32)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=f"{size[1]}×{size[0]} map is too small"):
        d_g(torch.rand(1, 19, *size))


def test_semantic_shapes_and_layers() -> None:
    torch.manual_seed(0)
    fcsa = FeatureDiscriminator(12, 19)
    assert fcsa.weight1.shape == (1024, 12)
    assert fcsa.bias1.shape == (1024,)
    assert fcsa.weight2.shape == (38, 1024)
    assert fcsa.bias2.shape == (38,)
    assert set(fcsa.state_dict()) == {"weight1", "bias1", "weight2", "bias2"}
    V = torch.randn(2, 19, 12)
    hidden = V @ fcsa.weight1.T + fcsa.bias1
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    expected = hidden @ fcsa.weight2.T + fcsa.bias2
    assert torch.allclose(fcsa(V), expected, atol=1e-5)


def test_pixel_is_feature_at_every_pixel() -> None:
    torch.manual_seed(0)
    csa = PixelDiscriminator(12, 7, hidden=20)
    fcsa = FeatureDiscriminator(12, 7, hidden=20)
    fcsa.load_state_dict(csa.state_dict())
    features = torch.randn(2, 12, 3, 4)
    expected = fcsa(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(csa(features), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("discriminator", "shape"),
    [
        (GlobalDiscriminator(6, width=8), (1, 6, 40, 40)),
        (FeatureDiscriminator(6, 4, hidden=8), (2, 4, 6)),
        (PixelDiscriminator(6, 4, hidden=8), (2, 6, 5, 5)),
    ],
)
def test_frozen_reaches_only_the_input(discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    plain = discriminator(x)
    frozen = discriminator(x, frozen=True)
    assert torch.equal(plain, frozen)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    frozen.square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    assert all(p.grad is None for p in discriminator.parameters())
