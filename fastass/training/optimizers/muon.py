"""Muon for convolutions: the momentum is orthogonalised, so that every direction moves as far.

With W a weight as a matrix [outputs, inputs · kernel], G its gradient, γ the learning rate, m the
momentum and β the weight decay (Jordan et al. 2024; Liu et al. 2025):

    M ← m M + G        O = orthogonal(G + m M)        W ← W − γ (‖W‖ / ‖O‖ · O + β W)

`orthogonal` is five Newton–Schulz steps towards U Vᵀ of the singular value decomposition U Σ Vᵀ.
Unlike in the two reports the step's length is a share γ of the weight's norm, as in LAMB: with
batch norm behind it, only the direction of W matters. Biases, and scale and shift of the norms, are
groups with `adapts=False`: these are AdamW's.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastass.training.optimizers.large_batch import LambBase, trust
from fastass.training.optimizers.torch_eager import without_guards

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values end near 1
ITERATIONS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [rows, columns] with the same singular vectors and singular values of 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-12)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.T
    return result


class _Muon(LambBase):
    """Muon. groups: may have `lr`, `weight_decay` and `adapts` of their own."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        """betas: of the groups that AdamW updates."""
        super().__init__(params, lr, betas=betas, weight_decay=weight_decay)
        self.defaults["momentum"] = momentum
        for group in self.param_groups:
            group.setdefault("momentum", momentum)

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        if not group["adapts"]:
            super()._update(group, parameters, gradients)
            return
        momentum = group["momentum"]
        momenta = self._state(parameters, "momentum_buffer")
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=momentum)
        steps = [orthogonal(m.flatten(1)).view_as(m) for m in ahead]
        ratios = trust(torch._foreach_norm(parameters), torch._foreach_norm(steps))
        torch._foreach_mul_(steps, ratios)
        torch._foreach_add_(steps, parameters, alpha=group["weight_decay"])
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])


Muon = without_guards(_Muon)
