"""Peak memory of a process or device, and what fills it."""

import multiprocessing
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MIB = 2**20


def reset_peak(device: torch.device) -> None:
    """The high-water mark starts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: torch.device) -> float:
    """Since `reset_peak`: allocated on CUDA; on a CPU resident, libraries and interpreter too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def children_mib() -> float:
    """Memory of the processes that this one has started, a page that several share split evenly."""
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
    every = [tensor for o in optimizers for s in o.state.values() for tensor in s.values()]
    state = sum(t.nbytes for t in every if isinstance(t, Tensor))
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
