"""What `torch.cuda.CUDAGraph` does, on a CPU: operators are recorded and replayed in their places.

As in a CUDA graph a recording has no effect, every replay reads and writes the memory of the
recording, and what was a number while it was recorded stays that number. Only operators that pass
torch's dispatcher are seen, so tests record the plain PyTorch implementation of the operators.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """One recording; has the methods of `fastass.training.graphed_step.Graph`."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.replays = 0
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: set[int] = set()  # storages of the recording
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # what it wrote to, and what was there

    def warming_up(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def recording(self) -> Iterator[None]:
        assert not self._calls, "recorded twice"
        with self:
            yield
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)
        self._before.clear()

    def replay(self) -> None:
        assert self._calls, "nothing was recorded"
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, outputs in self._calls:
                results = _tensors(function(*args, **kwargs))
                for place, value in zip(outputs, results, strict=True):
                    if value.data_ptr() != place.data_ptr():
                        place.copy_(value)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments = [*zip(func._schema.arguments, args, strict=False)]
        arguments += [(a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs]
        written = [v for a, v in arguments if a.alias_info is not None and a.alias_info.is_write]
        for tensor in _tensors(written):
            key = tensor.untyped_storage()._cdata
            if key not in self._made | self._before.keys():
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self._before[key] = whole, whole.clone()
        result = func(*args, **kwargs)
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in given:
                self._made.add(tensor.untyped_storage()._cdata)
        self._calls.append((func, args, kwargs, _tensors(result)))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
