"""Which optimizers a run gets, NVIDIA apex and its namesake included."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fastass import apex_optimizers
from fastass.config import Config, OptimConfig
from fastass.errors import UserError
from fastass.execution import choose_optimizers
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.discriminators import GlobalDiscriminator
from fastass.optim import discriminator_optimizer, generator_optimizer


def config(backend: str) -> Config:
    return Config(
        model=ModelConfig(backbone="tiny"),
        optim=OptimConfig(optimizer_backend=backend),  # type: ignore[arg-type]
    )


def both(backend: str) -> list[torch.optim.Optimizer]:
    c = config(backend)
    return [
        generator_optimizer(build_deeplab(c.model), c),
        discriminator_optimizer(GlobalDiscriminator(19, 4), c),
    ]


@pytest.mark.parametrize(("backend", "fused"), [("torch", True), ("foreach", None)])
def test_torch(backend: str, fused: bool | None) -> None:
    for optimizer in both(backend):
        assert optimizer.defaults["fused"] == fused
        assert optimizer.defaults["foreach"] == (None if fused else True)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str | None) -> None:
    """A package `apex`; `text`: its module `optimizers`."""
    package = folder / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if text is not None:
        (package / "optimizers.py").write_text(text)
        (folder / "amp_C.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    for name in ("apex", "apex.optimizers", "amp_C"):
        monkeypatch.delitem(sys.modules, name, raising=False)


FAKE = """
import torch
class FusedSGD(torch.optim.SGD):
    pass
class FusedAdam(torch.optim.Adam):
    def __init__(self, params, adam_w_mode=True, **values):
        assert not adam_w_mode
        super().__init__(params, **values)
"""


def test_apex_gets_the_same_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, FAKE)
    assert apex_optimizers.unavailable() is None
    for ours, theirs in zip(both("torch"), both("apex"), strict=True):
        assert type(theirs).__name__.startswith("Fused")
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            for key in ("lr", "base_lr", "momentum", "nesterov", "weight_decay", "betas"):
                assert a.get(key) == b.get(key)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "not NVIDIA's: `pip uninstall apex`"), ("", "has no FusedSGD")],
)
def test_the_unrelated_package_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, reason: str
) -> None:
    install(monkeypatch, tmp_path, text)
    with pytest.raises(UserError, match=reason):
        both("apex")


def test_apex_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *rest: Any) -> ModuleType | None:
        return None

    monkeypatch.setattr(apex_optimizers.importlib.util, "find_spec", absent)
    with pytest.raises(UserError, match="not installed"):
        both("apex")


def test_apex_needs_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, FAKE)
    with pytest.raises(UserError, match="need CUDA, the device is cpu; or use torch"):
        choose_optimizers(config("apex"), torch.device("cpu"))
    assert choose_optimizers(config("torch"), torch.device("cpu")) == "torch fused"
