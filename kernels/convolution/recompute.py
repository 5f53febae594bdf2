"""Residual sums that a backward computes again instead of keeping them.

A bottleneck's output x' = ReLU(x + conv(h)) is four times as wide as its other maps, and a 1×1
convolution away from two of them that are kept anyway. The next block's first convolution and the
ReLU need it in the backward: the first of them computes it, the second forgets it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

USES = 2  # the ReLU's mask and the gradient of the next convolution's weight


class Again:
    """A map that is computed again, once, when a backward first needs it."""

    def __init__(self, compute: Callable[[], Tensor], device: str) -> None:
        """compute: runs without gradients under the autocast of now; must not hold the graph."""
        self._compute: Callable[[], Tensor] | None = compute
        self._autocast: dict[str, Any] = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        self._map: Tensor | None = None
        self._left = USES

    def value(self) -> Tensor:
        """The map, kept until it has been taken `USES` times."""
        if self._map is None:
            if self._compute is None:
                raise RuntimeError(
                    "a second backward through residual sums that were dropped: use "
                    "recompute_sums false"
                )
            with torch.no_grad(), torch.autocast(**self._autocast):
                self._map = self._compute()
        return self._map

    def take(self) -> Tensor:
        """The map, for one of its uses; after the last nothing is held."""
        value = self.value()
        self._left -= 1
        if not self._left:
            self._map = self._compute = None
        return value
