"""Weights that AdaptSegNet's optimizer lists several times are updated several times."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fastass.cli.main import main
from fastass.config.schema import OptimConfig
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.training.optimizers.build import generator_optimizer, set_rates


def listed(backbone: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter as often as a walk through the modules of stem and layers meets it."""
    stem = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    for name in stem:
        for module in backbone.get_submodule(name).modules():
            yield from (p for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("backend", ["torch", "foreach"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_as_a_loop_over_the_list_with_its_repetitions(backend: str, nesterov: bool) -> None:
    torch.manual_seed(0)
    ours = build_deeplab(ModelConfig(backbone="resnet50", num_classes=5)).double()
    theirs = copy.deepcopy(ours)
    optim = OptimConfig(
        lr=0.01,
        nesterov=nesterov,
        repeated_updates=True,
        optimizer_backend=backend,  # type: ignore[arg-type]
    )
    optimizer = generator_optimizer(ours, optim, 1.0)
    momenta: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = {}
    for step in range(3):
        factor = 1 - step / 4
        set_rates([optimizer], factor)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            if a.requires_grad:
                a.grad = torch.randn_like(a)
                b.grad = a.grad.clone()
        optimizer.step()
        heads = [p for p in theirs.classifier.parameters() if p.requires_grad]
        for rate, parameters in (
            (optim.lr, list(listed(theirs.backbone))),
            (optim.lr * optim.head_lr, heads),
        ):
            for p in parameters:
                assert p.grad is not None
                counts[id(p)] = counts.get(id(p), 0) + 1
                with torch.no_grad():
                    change = p.grad + optim.weight_decay * p
                    before = momenta.get(id(p))
                    momentum = change.clone() if before is None else 0.9 * before + change
                    momenta[id(p)] = momentum
                    p.sub_(rate * factor * (change + 0.9 * momentum if nesterov else momentum))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)
    assert set(counts.values()) == {3, 9, 12}  # 1, 3 and 4 times per step


def test_once_without_the_option() -> None:
    network = build_deeplab(ModelConfig(backbone="resnet50"))
    optimizer = generator_optimizer(network, OptimConfig(), 1.0)
    assert all("updates" not in group for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "with a ResNet, not with tiny"),
        (["--backbone", "resnet50", "--init", "none", "--optimizer", "lamb"], "SGD, not with lamb"),
    ],
)
def test_elsewhere_it_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "toycity", "--repeated-updates", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
