"""LARS and LAMB: every weight moves by a share of its own norm, for large batches.

With w a layer's weight, g its gradient, γ the learning rate and β the weight decay:

LARS (You, Gitman and Ginsburg 2017, Algorithm 1), trust coefficient η, momentum m:

    λ = η ‖w‖ / (‖g‖ + β ‖w‖)        v ← m v + γ λ (g + β w)        w ← w − v

LAMB (You et al. 2020, Algorithm 2), with m̂ and v̂ as in Adam:

    r = m̂ / (√v̂ + ε) + β w          w ← w − γ ‖w‖ / ‖r‖ · r

The ratio is 1 where one of its norms is 0. It is also 1 in groups with `adapts=False`, which are
meant for biases and for scale and shift of the norms: LARS is then SGD, and LAMB is AdamW.

All tensors of a group are updated together by PyTorch's multi-tensor operations.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastass.training.optimizers.torch_eager import without_guards


def trust(numerators: Sequence[Tensor], denominators: Sequence[Tensor]) -> list[Tensor]:
    """Their ratios; 1 where one of the two is 0. Nothing waits for a GPU."""
    pairs = zip(numerators, denominators, strict=True)
    return [torch.where((a > 0) & (b > 0), a / b, 1.0) for a, b in pairs]


class _LayerWise(Optimizer):
    """What both have: the loop over the groups, of which each is one list of tensors."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; closure: is called first, with gradients on, and its value returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters, [p.grad for p in parameters])
        return loss

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        raise NotImplementedError

    def _state(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """A vector of the state for each parameter; zeros at first."""
        for p in parameters:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in parameters]


class _LARS(_LayerWise):
    """LARS. groups: may have `lr`, `weight_decay` and `adapts` of their own.

    nesterov: the step looks ahead along the momentum, as in torch's SGD.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "nesterov": nesterov,
            "adapts": True,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        steps = torch._foreach_add(gradients, parameters, alpha=decay)
        if group["adapts"]:
            weights = torch._foreach_norm(parameters)
            below = torch._foreach_add(torch._foreach_norm(gradients), weights, alpha=decay)
            ratios = trust(torch._foreach_mul(weights, group["trust"]), below)
            torch._foreach_mul_(steps, ratios)
        torch._foreach_mul_(steps, group["lr"])
        velocities = self._state(parameters, "momentum_buffer")
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, steps)
        if group["nesterov"]:
            torch._foreach_add_(steps, velocities, alpha=momentum)
            torch._foreach_sub_(parameters, steps)
        else:
            torch._foreach_sub_(parameters, velocities)


class LambBase(_LayerWise):
    """LAMB with torch's guards. groups: may have `lr`, `weight_decay` and `adapts` of their own."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adapts": True,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        beta1, beta2 = group["betas"]
        counts = [self._counted(p) for p in parameters]
        means = self._state(parameters, "exp_avg")
        squares = self._state(parameters, "exp_avg_sq")
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_div(squares, [1 - beta2**n for n in counts])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        steps = torch._foreach_div(means, [1 - beta1**n for n in counts])
        torch._foreach_div_(steps, roots)
        torch._foreach_add_(steps, parameters, alpha=group["weight_decay"])
        if group["adapts"]:
            ratios = trust(torch._foreach_norm(parameters), torch._foreach_norm(steps))
            torch._foreach_mul_(steps, ratios)
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _counted(self, parameter: Tensor) -> int:
        """The number of this step of a parameter, from 1 on."""
        state = self.state[parameter]
        state["step"] = state.get("step", torch.zeros(())) + 1  # a tensor, as Adam's in checkpoints
        return int(state["step"])


LARS = without_guards(_LARS)
LAMB = without_guards(LambBase)
