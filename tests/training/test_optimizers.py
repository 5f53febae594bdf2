"""Which optimizers a run gets, NVIDIA apex and its namesake included."""

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fastass.config.presets import preset
from fastass.config.schema import Config, DistributedConfig, OptimConfig, RuntimeConfig
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.discriminators import GlobalDiscriminator
from fastass.runtime.device import describe_runtime
from fastass.training.optimizers import apex
from fastass.training.optimizers.build import (
    _by_shape,
    batch_factor,
    decay,
    describe_optimizers,
    describe_rates,
    discriminator_optimizer,
    generator_optimizer,
    set_rates,
)
from fastass.training.step import TrainStep, build


def config(backend: str) -> Config:
    return Config(
        model=ModelConfig(backbone="tiny"),
        optim=OptimConfig(optimizer_backend=backend),  # type: ignore[arg-type]
    )


def both(backend: str) -> list[torch.optim.Optimizer]:
    c = config(backend)
    return [
        generator_optimizer(build_deeplab(c.model), c.optim, 1.0),
        discriminator_optimizer(GlobalDiscriminator(19, 4), c.optim, 1.0),
    ]


@pytest.mark.parametrize(("backend", "fused"), [("torch", True), ("foreach", None)])
def test_torch(backend: str, fused: bool | None) -> None:
    for optimizer in both(backend):
        assert optimizer.defaults["fused"] == fused
        assert optimizer.defaults["foreach"] == (None if fused else True)


@pytest.mark.parametrize("backend", ["torch", "foreach"])
def test_the_same_as_torchs(backend: str) -> None:
    """Steps, restored in the middle, and hooks: to the bit what torch's own class computes."""
    hooked: list[object] = []
    for ours in both(backend):
        (theirs_class,) = type(ours).__bases__
        copies = [
            {**g, "params": [p.detach().clone().requires_grad_() for p in g["params"]]}
            for g in ours.param_groups
        ]
        theirs = theirs_class(copies, **ours.defaults)
        ours.register_step_post_hook(lambda *_: hooked.append(None))
        for step in range(3):
            for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
                for p, q in zip(a["params"], b["params"], strict=True):
                    p.grad = torch.randn(p.shape)
                    q.grad = p.grad.clone()
            ours.step()
            theirs.step()
            if step == 1:
                ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            torch.testing.assert_close(a["params"], b["params"], rtol=0, atol=0)
    assert len(hooked) == 6


def test_the_deeper_a_layer_the_higher_its_rate() -> None:
    network = build_deeplab(ModelConfig(backbone="tiny"))
    layers = network.backbone.layers()
    optim = OptimConfig(lr=0.5, head_lr=4.0, layer_decay=0.5)
    groups = generator_optimizer(network, optim, 2.0).param_groups
    assert len(layers) > 2
    assert [g["base_lr"] for g in groups] == [0.5**i for i in range(len(layers))] + [4.0]
    for group, layer in zip(groups, reversed(layers), strict=False):
        assert list(map(id, group["params"])) == list(map(id, layer))
    assert len(groups[-1]["params"]) == len(network.parameter_groups()[1]["params"])


def test_every_value_reaches_its_optimizer() -> None:
    optim = OptimConfig(
        momentum=0.7, nesterov=False, weight_decay=0.25, betas=(0.1, 0.2), d_betas=(0.3, 0.4),
        trust=0.125,
    )  # fmt: skip
    network = build_deeplab(ModelConfig(backbone="tiny"))
    d = discriminator_optimizer(GlobalDiscriminator(19, 4), optim, 1.0).param_groups
    assert [(g["betas"], g["weight_decay"]) for g in d] == [((0.3, 0.4), 0)]
    wanted: dict[str, dict[str, Any]] = {
        "sgd": {"momentum": 0.7, "nesterov": False},
        "lars": {"momentum": 0.7, "nesterov": False, "trust": 0.125},
        "lamb": {"betas": (0.1, 0.2)},
        "muon": {"momentum": 0.7, "betas": (0.1, 0.2)},
        "adamw": {"betas": (0.1, 0.2)},
    }
    for name, values in wanted.items():
        optimizer = generator_optimizer(network, replace(optim, optimizer=name), 1.0)  # type: ignore[arg-type]
        assert type(optimizer).__name__.lower().strip("_").startswith(name)
        for group in optimizer.param_groups:
            assert {key: group[key] for key in values} == values
            vector = name != "sgd" and group["params"][0].dim() == 1
            assert group["weight_decay"] == (0.0 if vector else 0.25)


def test_matrices_are_weights_and_vectors_are_not() -> None:
    shapes: list[tuple[int, ...]] = [(2, 2), (2,), (1, 1, 1, 1), ()]
    group = {"params": [torch.zeros(shape) for shape in shapes], "base_lr": 1.0}
    weights, vectors = _by_shape(group, OptimConfig(optimizer="adamw", vector_lr=0.5))
    assert [tuple(p.shape) for p in weights["params"]] == [(2, 2), (1, 1, 1, 1)]
    assert [tuple(p.shape) for p in vectors["params"]] == [(2,), ()]
    assert (weights["base_lr"], vectors["base_lr"]) == (1.0, 0.5)
    assert len(_by_shape({**group, "params": group["params"][:1]}, OptimConfig())) == 1  # type: ignore[index]


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, text: str | None, extension: bool = True
) -> None:
    """A package `apex`; `text`: its module `optimizers`; `extension`: with its CUDA part."""
    package = folder / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if text is not None:
        (package / "optimizers.py").write_text(text)
    if extension:
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
    assert apex.unavailable() is None
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


@pytest.mark.parametrize(
    ("text", "extension", "reason"),
    [
        ("raise ImportError('libcudart.so.99 is missing')", True, r"can't be .*libcudart\.so\.99"),
        ("FusedSGD = None", True, "has no FusedAdam"),
        (FAKE, False, "without its CUDA extension"),
    ],
)
def test_an_apex_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, extension: bool, reason: str
) -> None:
    install(monkeypatch, tmp_path, text, extension)
    with pytest.raises(UserError, match=reason):
        both("apex")
    for device in ("cuda", "cpu"):
        with pytest.raises(UserError, match=reason):
            describe_optimizers(config("apex").optim, torch.device(device))


def test_apex_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *rest: Any) -> ModuleType | None:
        return None

    monkeypatch.setattr(apex.importlib.util, "find_spec", absent)
    with pytest.raises(UserError, match="not installed"):
        both("apex")


def test_apex_needs_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, FAKE)
    with pytest.raises(UserError, match="need CUDA, and the device is cpu; or use torch"):
        describe_optimizers(config("apex").optim, torch.device("cpu"))
    assert describe_optimizers(config("apex").optim, torch.device("cuda")) == "apex"
    assert describe_optimizers(config("torch").optim, torch.device("cpu")) == "torch fused"
    assert describe_optimizers(config("foreach").optim, torch.device("cpu")) == "torch foreach"


def scaled(rule: str, batch: int, accumulate: int = 1, world: int = 1, base: int = 4) -> Config:
    return replace(
        config("torch"),
        batch=batch,
        accumulate=accumulate,
        distributed=DistributedConfig(world=world),
        optim=OptimConfig(lr=0.1, d_lr=0.01, scale_lr=rule, base_batch=base),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 16.0), ("sqrt", 4.0)])
def test_rates_follow_the_global_batch_however_it_is_cut(rule: str, factor: float) -> None:
    for batch, accumulate, world in ((64, 1, 1), (8, 8, 1), (4, 1, 16), (1, 4, 16)):
        c = scaled(rule, batch, accumulate, world)
        assert batch_factor(c.optim, c.global_batch) == factor
        g = generator_optimizer(build_deeplab(c.model), c.optim, factor)
        d = discriminator_optimizer(GlobalDiscriminator(19, 4), c.optim, factor)
        set_rates([g, d], decay(0, c.optim, start_steps=0, steps=c.steps))
        backbone, head = (group["lr"] for group in g.param_groups)
        assert backbone == pytest.approx(0.1 * factor)
        assert head == pytest.approx(c.optim.head_lr * 0.1 * factor)
        assert d.param_groups[0]["lr"] == pytest.approx(0.01 * factor)


def test_the_heading_names_the_factor() -> None:
    assert describe_rates(scaled("none", 64).optim, 64) == ""
    c = scaled("sqrt", 8, 2, 2, base=4)
    line = describe_rates(c.optim, c.global_batch)
    assert line == " · learning rates × 2.83 (sqrt, global batch 32, base 4)"


@pytest.mark.parametrize(
    ("rule", "own", "factors"),
    [
        ("sqrt", "same", (4, 4)),
        ("sqrt", "none", (4, 1)),
        ("sqrt", "linear", (4, 16)),
        ("none", "sqrt", (1, 4)),
    ],
)
def test_the_discriminators_have_a_rule_of_their_own(
    rule: str, own: str, factors: tuple[float, float]
) -> None:
    c = scaled(rule, 64)
    optim = replace(c.optim, scale_lr_discriminators=own)  # type: ignore[arg-type]
    c = replace(c, optim=optim, steps=5, runtime=RuntimeConfig(device="cpu", kernels="reference"))
    engine = TrainStep(build(c, method_spec("ga", 4)), c, describe_runtime(c.runtime))
    rates = [engine.optimizers[n].param_groups[0]["base_lr"] for n in ("generator", "global_0")]
    assert rates == pytest.approx([0.1 * factors[0], 0.01 * factors[1]])
    line = describe_rates(optim, 64)
    assert f"× {factors[0]} ({rule}" in line
    assert (f"discriminators × {factors[1]}, {own}" in line) == (own != "same")


def test_a_warm_up_rises_to_the_scaled_rate() -> None:
    optim = replace(scaled("linear", 16).optim, warmup=10, power=0.0)
    factors = [decay(step, optim, start_steps=0, steps=1000) for step in (0, 4, 9, 10, 500)]
    assert factors == pytest.approx([0.1, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("step", "warmup", "schedule_steps", "factor"),
    [
        # The start: its own decay over 10 steps, (1 − t/10)².
        (0, 0, 0, 1.0),
        (5, 0, 0, 0.25),
        (9, 0, 0, 0.01),
        # The method: anew from step 10 on, over 20 steps.
        (10, 0, 0, 1.0),
        (20, 0, 0, 0.25),
        (29, 0, 0, 0.0025),
        (30, 0, 0, 0.0),  # and 0 after its end
        (40, 0, 0, 0.0),
        # A schedule that is longer or shorter than the run; the start has no part in it.
        (20, 0, 100, 0.81),
        (15, 0, 10, 0.25),
        (25, 0, 10, 0.0),
        (5, 0, 100, 0.25),
        # The warm-up multiplies the decay.
        (0, 8, 0, 1 / 8),
        (5, 8, 0, 6 / 8 * 0.25),
        (7, 8, 0, 8 / 8 * 0.09),
        (10, 8, 0, 1 / 8),
        (14, 8, 0, 5 / 8 * 0.64),
        (16, 8, 0, 7 / 8 * 0.49),
        (20, 8, 0, 0.25),
        (0, 1, 0, 1.0),
    ],
)
def test_the_factor_is_warm_up_times_decay(
    step: int, warmup: int, schedule_steps: int, factor: float
) -> None:
    optim = OptimConfig(power=2.0, warmup=warmup, schedule_steps=schedule_steps)
    assert decay(step, optim, start_steps=10, steps=20) == pytest.approx(factor, abs=1e-12)


def test_every_group_gets_its_own_rate_times_the_factor() -> None:
    g, d = both("torch")
    optim = config("torch").optim
    set_rates([g, d], 0.25)
    assert [group["lr"] for group in g.param_groups] == pytest.approx(
        [0.25 * optim.lr, 0.25 * optim.lr * optim.head_lr]
    )
    assert [group["lr"] for group in d.param_groups] == pytest.approx([0.25 * optim.d_lr])


def test_presets_keep_their_rates_at_their_own_batch() -> None:
    for name in ("toycity", "gta5_to_cityscapes_csa_500"):
        c = preset(name)
        assert c.optim.scale_lr == "none"
        assert c.global_batch == c.optim.base_batch
