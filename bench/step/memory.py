"""What fills the memory of a training step: tensors, and the processes of a loader."""

import multiprocessing
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MIB = 2**20


def children_mib() -> float:
    """MiB of the processes that this one has started; shared pages are divided among them."""
    total = 0
    for child in multiprocessing.active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def tensors(
    networks: nn.Module, optimizers: Iterable[Optimizer], step: Callable[[], object]
) -> dict[str, float]:
    """MiB of parameters, gradients, optimizer state, and of the most activations alive at once.

    Activations are what autograd keeps for the backward of one `step`, each storage once, the
    parameters left out.
    """
    parameters = list(networks.parameters())
    with SavedTensors(parameters) as saved:
        step()
    states = [value for o in optimizers for s in o.state.values() for value in s.values()]
    state = sum(value.nbytes for value in states if isinstance(value, Tensor))
    return {
        "parameters": sum(p.nbytes for p in parameters) / MIB,
        "gradients": sum(p.nbytes for p in parameters if p.requires_grad) / MIB,
        "optimizer state": state / MIB,
        "activations": saved.peak / MIB,
    }


class SavedTensors:
    """Counts the bytes that autograd keeps alive for a backward; `peak` is the most at once."""

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        self.alive = self.peak = 0
        self._ignored = {t.untyped_storage().data_ptr() for t in ignored}
        self._holders: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> "SavedTensors":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> "_Held":
        held = _Held(tensor)
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key not in self._ignored:
            self._holders[key] = self._holders.get(key, 0) + 1
            if self._holders[key] == 1:
                self.alive += size
                self.peak = max(self.peak, self.alive)
            weakref.finalize(held, self._release, key, size)
        return held

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.alive -= size

    @staticmethod
    def _unpack(held: "_Held") -> Tensor:
        return held.tensor


class _Held:
    """A saved tensor in an object whose end can be noticed."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
