"""Every operator and every Triton launch of a training step on the fake device, and what is wrong.

What is wrong on a GPU: a transfer between CPU and GPU, waiting for the GPU, a shape that depends on
values, tensors of two devices in one operator, a feature map that is not channels-last (NHWC), an
operator whose launcher returns something else than its fake (shape, dtype, strides, shared memory).
"""

import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT_WORDS = ("/fastass/", "/kernels/", "/bench/", "/pipelines/")
GRID_LIMIT = (2**31 - 1, 65535, 65535)
MAP = 256  # pixels from which a 4-d tensor counts as a feature map
ALLOCATIONS = ("empty", "new_empty", "_unsafe_view", "lift_fresh")
PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_addmm_activation",
    "mv",
    "addmv",
    "dot",
    "_scaled_mm",
)
DYNAMIC = ("nonzero", "masked_select", "unique", "_unique2", "bincount", "repeat_interleave")


@dataclass(frozen=True)
class Meta:
    """A tensor's description."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize


@dataclass
class Op:
    """One operator, or one launch of a Triton kernel (`triton:NAME`).

    outputs: what is written: the results, and arguments that are changed. launches: False for a
    view or an allocation. multiplies: it is, or contains, a matrix product. inner: what the
    launcher of one of the project's operators runs.
    """

    name: str
    inputs: list[Meta]
    outputs: list[Meta]
    arguments: Any = ()
    inner: "list[Op]" = field(default_factory=list)
    launches: bool = True
    multiplies: bool = False


def meta(tensor: Tensor) -> Meta:
    return Meta(tuple(tensor.shape), tensor.dtype, tuple(tensor.stride()))


class Recorder(TorchDispatchMode):
    """Records `ops` and the `faults` found, in the order of the calls, and the peak of memory."""

    def __init__(self, inside: bool = False) -> None:
        """inside: of a launcher, whose buffers are no feature maps."""
        super().__init__()
        self.inside = inside
        self.ops: list[Op] = []
        self.faults: list[str] = []
        self.launches: list[str] = []
        self.peak = 0
        self._alive: dict[int, tuple[weakref.ref, int]] = {}
        self._total = 0

    # --- operators --------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name()
        if name.split(".")[0] == "aten::_local_scalar_dense":
            self._fault("waits for the GPU (a tensor's value is read)", name)
        result = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if func.namespace == "prim":
            return result  # asks for a property
        if any(t.device.type == "cuda" for t in inputs + outputs):
            computes = not (is_view(func) or name.split("::")[1].startswith(ALLOCATIONS))
            self._check(name, inputs, outputs, computes)
            shown = tree_map(lambda v: meta(v) if isinstance(v, Tensor) else v, args)
            written = outputs or changed(func, args)
            op = Op(name, [*map(meta, inputs)], [*map(meta, written)], shown)
            op.launches = computes
            op.multiplies = name.split("::")[1].split(".")[0] in PRODUCTS
            if func.namespace == "fastass":
                op.inner = self._launch(name.split(".")[0], args, kwargs, outputs)
            self.ops.append(op)
            for tensor in outputs:
                self.hold(tensor)
        return result

    def _check(
        self, name: str, inputs: list[Tensor], outputs: list[Tensor], computes: bool
    ) -> None:
        short = name.split("::")[1].split(".")[0]
        on_cpu = [t for t in inputs if t.device.type == "cpu"]
        on_gpu = [t for t in inputs if t.device.type == "cuda"]
        if short in ("_to_copy", "copy_") and on_cpu:
            self._fault("copies from the CPU to the GPU", name)
        elif on_gpu and any(t.dim() for t in on_cpu):
            self._fault("mixes devices", name)
        if on_gpu and any(t.device.type == "cpu" for t in outputs):
            self._fault("copies from the GPU to the CPU", name)
        masks = short in ("index", "index_put_", "index_put") and any(
            t.dtype in (torch.bool, torch.uint8) for t in inputs[1:]
        )
        if short in DYNAMIC or masks:
            self._fault("makes a shape that depends on values, which waits for the GPU", name)
        if self.inside or not computes:
            return
        for tensor in outputs:
            if is_map(tensor) and not is_nhwc(tensor):
                self._fault(f"map {tuple(tensor.shape)} has strides {tensor.stride()}", name)
        if short in ("convolution", "convolution_backward"):
            for tensor in inputs:
                if is_map(tensor) and not is_nhwc(tensor):
                    self._fault(f"reads {tuple(tensor.shape)}, strides {tensor.stride()}", name)

    def _fault(self, what: str, name: str) -> None:
        self.faults.append(f"{name} {what} at {_where()}")

    # --- the project's operators ------------------------------------------------------------------

    def _launch(self, name: str, args: Any, kwargs: Any, fakes: Sequence[Tensor]) -> list[Op]:
        """Run the launcher too: its launches, and whether its results look like its fake's."""
        launcher = OPDEFS[name]._backend_fns["cuda"]
        inside = Recorder(inside=True)
        with inside:
            results = launcher(*args, **kwargs)
        self.launches += inside.launches
        self.faults += [f"in {name}: {fault}" for fault in inside.faults]
        real = [t for t in tree_leaves(results) if isinstance(t, Tensor)]
        self.faults += [f"{name}: {difference}" for difference in differences(real, fakes, args)]
        return inside.ops

    def triton(
        self, name: str, bound: dict[str, Any], grid: tuple[int, ...], multiplies: bool
    ) -> None:
        """One launch: `bound` are all its arguments by name."""
        tensors = {key: value for key, value in bound.items() if isinstance(value, Tensor)}
        for key, tensor in tensors.items():
            if tensor.device.type != "cuda":
                self._fault(f"gets {key} on {tensor.device}", f"triton:{name}")
        if any(not 1 <= n <= most for n, most in zip(grid, GRID_LIMIT, strict=False)):
            self._fault(f"has the grid {grid}", f"triton:{name}")
        self.launches.append(name)
        shown = {key: meta(v) if isinstance(v, Tensor) else v for key, v in bound.items()}
        touched = {t.untyped_storage()._cdata: meta(t) for t in tensors.values()}
        self.ops.append(Op(f"triton:{name}", [*touched.values()], [], shown, multiplies=multiplies))

    # --- memory -----------------------------------------------------------------------------------

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's memory for as long as something refers to it."""
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._alive.get(key)
        if known is not None and not _expired(known[0]):
            return
        self._total += storage.nbytes() - (known[1] if known is not None else 0)
        self._alive[key] = _reference(storage), storage.nbytes()
        if self._total > 1.01 * self.peak:  # a sweep is not for free: the peak is 1 % too low
            for gone in [k for k, (ref, _) in self._alive.items() if _expired(ref)]:
                self._total -= self._alive.pop(gone)[1]
            self.peak = max(self.peak, self._total)


def _reference(storage: Any) -> Any:
    from torch.multiprocessing.reductions import StorageWeakRef

    return StorageWeakRef(storage)


def _expired(reference: Any) -> bool:
    return bool(reference.expired())


def differences(
    real: Sequence[Tensor], fakes: Sequence[Tensor], arguments: Sequence[Any]
) -> Iterator[str]:
    """How what a launcher returns differs from what its fake promises."""
    if len(real) != len(fakes):
        yield f"returns {len(real)} tensors, its fake {len(fakes)}"
        return
    for i, (a, b) in enumerate(zip(real, fakes, strict=True)):
        for what in ("shape", "dtype", "device"):
            if getattr(a, what) != getattr(b, what):
                yield f"output {i}: {what} {getattr(a, what)}, its fake's {getattr(b, what)}"
        if a.shape == b.shape and a.numel() and a.stride() != b.stride():
            yield f"output {i}: strides {a.stride()}, its fake's {b.stride()}"
    given = {t.untyped_storage()._cdata for t in arguments if isinstance(t, Tensor)}
    seen: set[int] = set()
    for i, tensor in enumerate(real):
        key = tensor.untyped_storage()._cdata
        if tensor.numel() and key in given | seen:
            yield f"output {i}: shares memory with an input or another output"
        seen.add(key)


def is_view(func: Any) -> bool:
    """Whether an operator returns another view of an argument that it does not change."""
    returned = [value.alias_info for value in func._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


def changed(func: Any, args: Sequence[Any]) -> list[Tensor]:
    """The arguments that an operator without results changes."""
    given = zip(func._schema.arguments, args, strict=False)
    written = [v for a, v in given if a.alias_info is not None and a.alias_info.is_write]
    return [tensor for tensor in tree_leaves(written) if isinstance(tensor, Tensor)]


def is_map(tensor: Tensor) -> bool:
    """Whether a tensor is a feature map: 4-d, several channels, more pixels than a kernel has."""
    return (
        tensor.dim() == 4
        and tensor.shape[1] > 1
        and tensor.shape[2] * tensor.shape[3] >= MAP
        and tensor.is_floating_point()
    )


def is_nhwc(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _where() -> str:
    """The last line of the project on the stack; backward runs without one."""
    others = (__file__.rpartition("/")[0], "site-packages")
    for frame in reversed(traceback.extract_stack()):
        path = frame.filename
        if any(w in path for w in ROOT_WORDS) and not any(other in path for other in others):
            return f"{path.rpartition('/')[2]}:{frame.lineno}"
    return "backward"


@contextmanager
def recording() -> Iterator[Recorder]:
    """A recorder of what runs inside; Triton's kernels are recorded and do not run."""
    recorder = Recorder()
    with launches_to(recorder), recorder:
        yield recorder


@contextmanager
def launches_to(recorder: Recorder | None = None) -> Iterator[None]:
    """Triton's launches go to a recorder, or nowhere; none of them runs."""
    import triton

    kernel = triton.runtime.jit.JITFunction
    original = kernel.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        name = f"{self.fn.__module__.removeprefix('fastass.kernels.')}.{self.fn.__name__}"
        bound = dict(zip(self.arg_names, args, strict=False))
        bound |= {key: value for key, value in kwargs.items() if key in self.arg_names}
        missing = [n for n in self.arg_names if n not in bound and not _has_default(self, n)]
        if missing:
            raise TypeError(f"{name}: launched without {', '.join(missing)}")
        if recorder is not None:
            size = tuple(grid(bound) if callable(grid) else grid)
            innermost(recorder).triton(name, bound, size, "tl.dot" in self.src)

    kernel.run = run
    try:
        yield
    finally:
        kernel.run = original


def innermost(default: Recorder) -> Recorder:
    """The recorder that sees operators now: that of a launcher inside an operator comes first."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    found = [m for m in _get_current_dispatch_mode_stack() if isinstance(m, Recorder)]
    return found[-1] if found else default


def _has_default(kernel: Any, name: str) -> bool:
    return any(p.name == name and p.has_default for p in kernel.params)
