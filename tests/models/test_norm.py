import copy

import pytest
import torch
from torch import nn

from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.norm import FrozenBatchNorm2d, conv_bn, make_norm


def randomise(norm: nn.Module) -> None:
    state = norm.state_dict()
    generator = torch.Generator().manual_seed(1)
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@pytest.fixture
def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, bias=False).double()


def test_frozen_equals_batch_norm_in_evaluation(conv: nn.Conv2d) -> None:
    batch = nn.BatchNorm2d(6).double().eval()
    randomise(batch)
    frozen = FrozenBatchNorm2d(6).double().train()
    state = batch.state_dict()
    del state["num_batches_tracked"]
    frozen.load_state_dict(state)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)

    expected = batch(conv(x))
    assert torch.allclose(frozen(conv(x)), expected)
    folded = conv_bn(x, conv, frozen)
    assert torch.allclose(folded, expected)

    (gradient,) = torch.autograd.grad(expected.square().sum(), conv.weight)
    (ours,) = torch.autograd.grad(folded.square().sum(), conv.weight)
    assert torch.allclose(ours, gradient)


def test_folding_takes_a_pass_over_the_activations_away(conv: nn.Conv2d) -> None:
    frozen = FrozenBatchNorm2d(6).double()
    out = conv_bn(torch.randn(1, 4, 9, 9, dtype=torch.float64), conv, frozen)
    assert "Convolution" in type(out.grad_fn).__name__


def test_folding_keeps_no_second_copy_of_the_weight(conv: nn.Conv2d) -> None:
    frozen = FrozenBatchNorm2d(6).double()
    randomise(frozen)
    kept: list[torch.Tensor] = []

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        conv_bn(torch.randn(1, 4, 9, 9, dtype=torch.float64), conv, frozen)
    shapes = [t for t in kept if t.shape == conv.weight.shape]
    assert [t.data_ptr() for t in shapes] == [conv.weight.data_ptr()]


def test_folding_under_autocast_computes_what_plain_operators_do() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    frozen = FrozenBatchNorm2d(6)
    randomise(frozen)
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    scale, shift = frozen.scale_shift()

    def gradients(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert y.dtype == torch.bfloat16
        return y, *torch.autograd.grad(y.float().square().sum(), (x, conv.weight))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = gradients(conv_bn(x, conv, frozen))
        weight = conv.weight * scale[:, None, None, None]
        plain = gradients(nn.functional.conv2d(x, weight, shift, padding=1))
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a, b, rtol=2e-2, atol=2e-2)
        assert a.dtype == b.dtype


def test_frozen_never_changes() -> None:
    """Steps in train mode, with weight decay, leave every norm buffer bit-equal."""
    torch.manual_seed(0)
    model = build_deeplab(ModelConfig(backbone="tiny", width=16, norm="frozen")).train()
    norms = {n: m for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert len(norms) == 12
    for norm in norms.values():
        randomise(norm)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 33, 33)).scores.square().mean().backward()
        optimizer.step()
    after = model.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    inside = {n for n in before if n.rsplit(".", 1)[0] in norms}
    assert len(inside) == 48
    assert changed == before.keys() - inside


def test_batch_updates_statistics_and_keeps_the_affine() -> None:
    torch.manual_seed(0)
    model = build_deeplab(ModelConfig(backbone="resnet18")).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, weight_decay=0.1)
    model(torch.randn(2, 3, 33, 33)).scores.square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert torch.equal(after[f"{name}.weight"], before[f"{name}.weight"])
            assert torch.equal(after[f"{name}.bias"], before[f"{name}.bias"])
            assert not torch.equal(after[f"{name}.running_mean"], before[f"{name}.running_mean"])
            assert not torch.equal(after[f"{name}.running_var"], before[f"{name}.running_var"])


def test_sync_is_batch_in_one_process() -> None:
    x = torch.randn(3, 6, 5, 5)
    sync = make_norm("sync", 6, train_affine=True)
    assert isinstance(sync, nn.SyncBatchNorm)
    assert torch.equal(sync(x), make_norm("batch", 6, train_affine=True)(x))


@pytest.mark.parametrize("train_affine", [True, False])
@pytest.mark.parametrize("kind", ["batch", "sync"])
def test_affine_trains_on_request(kind: str, train_affine: bool) -> None:
    norm = make_norm(kind, 6, train_affine=train_affine)  # type: ignore[arg-type]
    assert {p.requires_grad for p in norm.parameters()} == {train_affine}


def test_frozen_has_no_parameters() -> None:
    assert not list(FrozenBatchNorm2d(6).parameters())


def test_scale_and_shift_are_computed_once_and_again_when_a_buffer_changes() -> None:
    norm = FrozenBatchNorm2d(6)
    with torch.inference_mode():  # an evaluation may come first
        scale, _ = norm.scale_shift()
    assert not scale.is_inference()
    assert norm.scale_shift()[0] is scale
    randomise(norm)
    changed = norm.scale_shift()
    assert not torch.equal(changed[0], scale)
    assert torch.equal(changed[0], norm.weight * (norm.running_var + norm.eps).rsqrt())
    norm.double()  # other tensors
    assert norm.scale_shift()[0].dtype == torch.float64
    copied = copy.deepcopy(norm)
    copied.bias.add_(1)
    torch.testing.assert_close(copied.scale_shift()[1], norm.scale_shift()[1] + 1)
