"""Running statistics of batch norm, kept twice while training: of all streams and of the target's.

A norm itself keeps those of every stream that is forwarded, as AdaptSegNet does (`mixed`).
`TargetStatistics` is a second pair of vectors per norm, which the target's streams alone feed
(`domain`: the network is used on the target). Both are fed after the forwards of a step, with the
batch statistics that the norms compute anyway (`fastass.kernels.convolution.running_statistics`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastass.kernels.convolution.running_statistics import BatchStatistics

RUNNING = ("running_mean", "running_var")


def running_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The norms with running statistics, by name; none where norms are frozen or absent."""
    named = network.named_modules()
    return {name: m for name, m in named if isinstance(m, _BatchNorm) and m.track_running_stats}


class TargetStatistics(nn.Module):
    """Running mean and variance of the target's streams, for every norm of a network.

    Its buffers have the names of the network's own. They start as copies of these.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._of: dict[nn.Module, nn.Module] = {}
        for name, norm in running_norms(network).items():
            leaf: nn.Module = self
            for part in name.split("."):
                if part not in leaf._modules:
                    leaf.add_module(part, nn.Module())
                leaf = leaf.get_submodule(part)
            for vector in RUNNING:
                leaf.register_buffer(vector, getattr(norm, vector).clone())
            self._of[norm] = leaf

    @torch.no_grad()
    def copy_from_network(self) -> None:
        """Start from the network's own running statistics, for example after weights are loaded."""
        for norm, leaf in self._of.items():
            for name in RUNNING:
                getattr(leaf, name).copy_(getattr(norm, name))

    def vectors(self, norm: nn.Module) -> list[Tensor]:
        """[mean, variance] kept for a norm of the network."""
        return _vectors(self._of[norm])

    def exchange(self) -> None:
        """The network's statistics and these change places. Nothing is copied."""
        for norm, leaf in self._of.items():
            own = _vectors(norm)
            _set(norm, _vectors(leaf))
            _set(leaf, own)

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Inside, the network normalises with these statistics in evaluation mode."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def differ(self) -> bool:
        """Whether any of them differs from the network's own."""
        pairs = [
            pair
            for norm in self._of
            for pair in zip(_vectors(norm), self.vectors(norm), strict=True)
        ]
        return not all(torch.equal(own, these) for own, these in pairs)


@torch.no_grad()
def feed(
    seen: Sequence[BatchStatistics],
    target: TargetStatistics | None,
    of_target: Callable[[str], bool] = lambda stream: True,
) -> None:
    """Add what forwards saw to the running statistics of their norms, in this order.

    target: is fed as well, by the streams that are `of_target`; None: there is none.
    """
    for group in _forwards(seen):
        norms = [s.norm for s in group]
        batch = [vector for s in group for vector in (s.mean, s.variance)]
        banks = [[vector for norm in norms for vector in _vectors(norm)]]
        if target is not None and of_target(group[0].stream):
            banks.append([vector for norm in norms for vector in target.vectors(norm)])
        momentum = norms[0].momentum
        assert momentum is not None
        for vectors in banks:
            torch._foreach_lerp_(vectors, batch, momentum)
        counters = [norm.num_batches_tracked for norm in norms]
        torch._foreach_add_([c for c in counters if c is not None], 1)


def _forwards(seen: Sequence[BatchStatistics]) -> Iterator[list[BatchStatistics]]:
    """Successive entries of one stream and one momentum in which no norm occurs twice."""
    group: dict[nn.Module, BatchStatistics] = {}
    kind = None
    for s in seen:
        if s.norm in group or (group and kind != (s.stream, s.norm.momentum)):
            yield list(group.values())
            group = {}
        kind = s.stream, s.norm.momentum
        group[s.norm] = s
    if group:
        yield list(group.values())


def _vectors(of: nn.Module) -> list[Tensor]:
    return [getattr(of, name) for name in RUNNING]


def _set(norm: nn.Module, vectors: Sequence[Tensor]) -> None:
    for name, vector in zip(RUNNING, vectors, strict=True):
        setattr(norm, name, vector)
