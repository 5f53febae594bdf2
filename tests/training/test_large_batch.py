"""LARS, LAMB and Muon against the papers' formulas, one parameter at a time in float64."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastass.config.schema import OptimConfig
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.training.optimizers.build import describe_optimizers, generator_optimizer
from fastass.training.optimizers.large_batch import LAMB, LARS, trust
from fastass.training.optimizers.muon import Muon, orthogonal


def norm(x: Tensor) -> float:
    return math.sqrt(sum(v * v for v in x.flatten().tolist()))


def lars(w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Algorithm 1 of You, Gitman and Ginsburg 2017 → the new weight."""
    beta, m = group["weight_decay"], group["momentum"]
    local = 1.0
    if group["adapts"] and norm(w) > 0 and norm(g) + beta * norm(w) > 0:
        local = group["trust"] * norm(w) / (norm(g) + beta * norm(w))
    step = group["lr"] * local * (g + beta * w)
    state["v"] = m * state.get("v", 0) + step
    return w - (step + m * state["v"] if group["nesterov"] else state["v"])


def lamb(w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Algorithm 2 of You et al. 2020, with φ the identity → the new weight."""
    b1, b2 = group["betas"]
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * g * g
    r = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"])
    r = r + group["weight_decay"] * w
    ratio = norm(w) / norm(r) if group["adapts"] and norm(w) > 0 and norm(r) > 0 else 1.0
    return w - group["lr"] * ratio * r


def muon(w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Jordan et al. 2024, with a step of the weight's norm; LAMB without a trust ratio is AdamW."""
    if not group["adapts"]:
        return lamb(w, g, state, group)
    m = state["m"] = group["momentum"] * state.get("m", 0) + g
    x = (g + group["momentum"] * m).reshape(len(g), -1)
    x = x / max(norm(x), 1e-12)
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    for _ in range(5):
        A = x @ x.T
        x = 3.4445 * x + (-4.7750 * A + 2.0315 * A @ A) @ x
    step = (x.T if transposed else x).reshape(w.shape)
    ratio = norm(w) / norm(step) if norm(w) > 0 and norm(step) > 0 else 1.0
    return w - group["lr"] * (ratio * step + group["weight_decay"] * w)


FORMULA = {LARS: lars, LAMB: lamb, Muon: muon}
VALUES: list[tuple[Any, dict[str, Any]]] = [
    (LARS, {"lr": 0.5, "momentum": 0.9, "trust": 0.02}),
    (LARS, {"lr": 0.5, "momentum": 0.8, "trust": 0.02, "nesterov": True}),
    (LAMB, {"lr": 0.02, "betas": (0.9, 0.99)}),
    (LAMB, {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3}),
    (Muon, {"lr": 0.05, "momentum": 0.8, "betas": (0.9, 0.95)}),
]


def groups() -> list[dict[str, Any]]:
    """Weights that adapt, one of them zero, one of them channels-last, and vectors that do not."""
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    maps = random(4, 3, 3, 3).to(memory_format=torch.channels_last)
    weights = [random(5, 7), torch.zeros(3, 2, dtype=torch.float64), maps]
    vectors = [random(6), random(2)]
    return [
        {"params": [w.requires_grad_() for w in weights], "weight_decay": 0.1},
        {"params": [v.requires_grad_() for v in vectors], "weight_decay": 0.0, "adapts": False},
    ]


@pytest.mark.parametrize(("kind", "values"), VALUES)
def test_the_papers_formulas(kind: Any, values: dict[str, Any]) -> None:
    """With rates that change, gradients that are zero or absent, and a restore in the middle."""
    optimizer = kind(groups(), **values)
    g = torch.Generator().manual_seed(1)
    states: dict[Tensor, dict[str, Any]] = {}
    for step in range(6):
        expected = []
        for group in optimizer.param_groups:
            group["lr"] = values["lr"] * (1 - step / 10)
            for i, p in enumerate(group["params"]):
                p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
                if i == 0 and step == 2:
                    p.grad.zero_()
                if i == 1 and step == 3:
                    p.grad = None
                    expected.append(p.detach().clone())
                    continue
                own = states.setdefault(p, {})
                expected.append(FORMULA[kind](p.detach(), p.grad, own, group))
        before = [
            None if p.grad is None else p.grad.clone()
            for group in optimizer.param_groups
            for p in group["params"]
        ]
        optimizer.step()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p, wanted, gradient in zip(parameters, expected, before, strict=True):
            torch.testing.assert_close(p.detach(), wanted, rtol=1e-12, atol=1e-14)
            assert (p.grad is None) == (gradient is None)
            if gradient is not None:
                assert p.grad is not None
                assert torch.equal(p.grad, gradient), "a step must not change gradients"
        if step == 2:
            saved = copy.deepcopy(optimizer.state_dict())
            other = kind([{**g, "params": g["params"]} for g in optimizer.param_groups], **values)
            other.load_state_dict(saved)
            optimizer = other


@pytest.mark.parametrize("kind", [LARS, LAMB, Muon])
def test_a_layer_moves_by_a_share_of_its_norm(kind: Any) -> None:
    """The first step does not depend on the gradient's scale; the step scales with the weight."""

    def moved(weight: float, gradient: float) -> float:
        w = torch.full((4, 4), weight, dtype=torch.float64, requires_grad=True)
        w.grad = gradient * torch.arange(1.0, 17, dtype=torch.float64).view(4, 4)
        optimizer = kind([{"params": [w]}], lr=0.1)
        optimizer.step()
        return float((w.detach() - weight).norm())

    assert moved(1, 1e3) == pytest.approx(moved(1, 1), rel=1e-4)
    assert moved(3, 1) == pytest.approx(3 * moved(1, 1), rel=1e-6)


@pytest.mark.parametrize("name", ["lars", "lamb", "muon", "adamw", "sgd"])
def test_biases_and_norms_are_neither_decayed_nor_adapted(name: str) -> None:
    network = build_deeplab(ModelConfig(backbone="tiny"))
    optim = OptimConfig(
        optimizer=name,  # type: ignore[arg-type]
        lr=1.0,
        head_lr=0.5,
        vector_lr=0.25,
        decay_norms=False,
    )
    optimizer = generator_optimizer(network, optim, 2.0)
    seen = []
    for group in optimizer.param_groups:
        vector = all(p.dim() == 1 for p in group["params"])
        assert vector or all(p.dim() > 1 for p in group["params"])
        assert group["weight_decay"] == (0.0 if vector else optim.weight_decay)
        assert group["adapts"] is not vector
        seen += group["params"]
    assert {id(p) for p in seen} == {id(p) for p in network.parameters() if p.requires_grad}
    factor = 1.0 if name == "sgd" else 0.25
    rates = [group["base_lr"] for group in optimizer.param_groups]
    assert rates == [2.0, 2.0 * factor, 1.0, 1.0 * factor]


def test_sgd_decays_everything_by_default() -> None:
    optimizer = generator_optimizer(build_deeplab(ModelConfig(backbone="tiny")), OptimConfig(), 1.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 5e-4]


def test_apex_has_no_lamb_here() -> None:
    optim = OptimConfig(optimizer="lamb", optimizer_backend="apex")
    with pytest.raises(UserError, match="apex is used for sgd and Adam, not for lamb; use torch"):
        describe_optimizers(optim, torch.device("cuda"))
    optim = OptimConfig(optimizer="lamb")
    assert describe_optimizers(optim, torch.device("cpu")) == "lamb, torch fused"


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (12, 12), (1, 9)])
def test_orthogonal_keeps_singular_vectors(shape: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=g, dtype=torch.float64)
    found = orthogonal(1e3 * matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = u.T @ found @ v.T
    diagonal = values.diagonal()
    assert diagonal.min() > 0.3  # a square matrix has a singular value near 0
    assert diagonal.max() < 1.25
    torch.testing.assert_close(values, torch.diag(diagonal), rtol=0, atol=1e-9)
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))
    torch.testing.assert_close(orthogonal(1e-3 * matrix), found, rtol=0, atol=1e-12)


def test_a_ratio_is_1_where_one_of_its_norms_is_0() -> None:
    numerators = [torch.tensor(v) for v in (6.0, 0.0, 6.0, 0.0)]
    denominators = [torch.tensor(v) for v in (4.0, 4.0, 0.0, 0.0)]
    assert [ratio.item() for ratio in trust(numerators, denominators)] == [1.5, 1, 1, 1]


def test_values_that_are_not_given() -> None:
    """The papers' and PyTorch's; runs give theirs, other training loops may not."""
    weight = [{"params": [torch.zeros(2, 2, requires_grad=True)]}]
    wanted: dict[Any, dict[str, Any]] = {
        LARS: {"momentum": 0.9, "weight_decay": 0.0, "trust": 1e-3, "nesterov": False},
        LAMB: {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0},
        Muon: {"momentum": 0.9, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0},
    }
    for kind, values in wanted.items():
        optimizer = kind(weight, lr=0.5)
        assert optimizer.defaults == {**values, "lr": 0.5, "adapts": True}
        (group,) = optimizer.param_groups
        assert {name: group[name] for name in optimizer.defaults} == optimizer.defaults


@pytest.mark.parametrize("kind", [LARS, LAMB, Muon])
def test_a_closure_is_called_with_gradients_on(kind: Any) -> None:
    w = torch.ones(2, 2, requires_grad=True)
    optimizer = kind([{"params": [w]}], lr=0.1)

    def closure() -> float:
        loss = (w * w).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert (w < 1).all()
    assert optimizer.step() is None
