"""The whole training step as one CUDA graph: recorded once, then started with one launch.

A step at batch 1 is thousands of small kernels, and starting them takes the CPU longer than the GPU
needs to run them. `GraphedStep` runs the first steps of a phase eagerly: they make caches,
workspaces, compiled kernels and the optimizers' states. It records the next step, which does not
run it, and from then on replays the recording. The recording holds the kernels of the eager step,
so it changes what the eager step changes.

A recording reads and writes the same memory in every replay. What differs from step to step is
therefore copied in before: images and labels, the learning rates, the weight of the running
average. The gradients are made and freed inside the recording, so nothing has to be set to zero.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastass.errors import UserError
from fastass.method.terms import LossTerms
from fastass.pipelines.errors import one_line
from fastass.pipelines.loaders.batch import Batch, StepBatch

EAGER_STEPS = 3  # at the start of each phase
_REMEDY = "leave out --cuda-graph"

Update = Callable[[Sequence[StepBatch], bool, float | Tensor], LossTerms]


class Graph(Protocol):
    """One recording."""

    def warming_up(self) -> AbstractContextManager[None]:
        """Eager steps run inside."""

    def recording(self) -> AbstractContextManager[object]:
        """What is called inside is recorded and not run."""

    def replay(self) -> None:
        """Run what was recorded."""


class CudaGraph:
    """`torch.cuda.CUDAGraph` on a stream of its own. The default generator belongs to it, so random
    numbers go on from replay to replay."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """On the stream of the recording, which then has its workspaces."""
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            yield
        usual.wait_stream(self._stream)

    def recording(self) -> AbstractContextManager[object]:
        # Of this thread alone: loaders may allocate pinned memory meanwhile.
        return torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local")

    def replay(self) -> None:
        self._graph.replay()


class _Recorded(NamedTuple):
    batches: list[StepBatch]  # what the recording reads
    terms: LossTerms  # what it writes


class GraphedStep:
    """`update` with the same results, as one graph for each phase of a run."""

    def __init__(
        self,
        update: Update,
        optimizers: Mapping[str, Optimizer],
        device: torch.device,
        make_graph: Callable[[torch.device], Graph] = CudaGraph,
    ) -> None:
        """optimizers: all that `update` steps; fused, so that they read tensors of rates."""
        self._update, self._optimizers, self._device = update, optimizers, device
        self._make_graph = make_graph
        self._rates = [torch.zeros((), device=device) for _ in self._groups()]
        self._average_weight = torch.zeros((), device=device)
        self.forget()

    def forget(self) -> None:
        """Start again with eager steps. For values that have moved, and for another phase."""
        self._adapt: bool | None = None
        self._graph: Graph | None = None
        self._recorded: _Recorded | None = None
        self._eager_steps = 0

    def update(
        self, batches: Sequence[StepBatch], adapt: bool, average_weight: float | Tensor
    ) -> LossTerms:
        """`update` of the constructor. UserError for a batch of another size than the first one's,
        and for a step that can't be recorded."""
        if adapt != self._adapt:
            self.forget()
            self._adapt, self._graph = adapt, self._make_graph(self._device)
        assert self._graph is not None
        if self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            with self._graph.warming_up():
                return self._update(batches, adapt, average_weight)
        if self._recorded is None:
            self._recorded = self._record(self._graph, batches, adapt)
        else:
            _copy(self._recorded.batches, batches)
        for rate, group in zip(self._rates, self._groups(), strict=True):
            rate.fill_(group["lr"])
        self._average_weight.fill_(average_weight)
        self._graph.replay()
        return _fresh(self._recorded.terms)

    def _record(self, graph: Graph, batches: Sequence[StepBatch], adapt: bool) -> _Recorded:
        own = [StepBatch(*(None if s is None else _clone(s) for s in batch)) for batch in batches]
        try:
            with self._rates_as_tensors(), graph.recording():
                terms = self._update(own, adapt, self._average_weight)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # ending a broken recording raises once more
                cause = cause.__context__
            reason = one_line(cause, 200)
            raise UserError(
                f"--cuda-graph: this step can't be recorded ({reason}); {_REMEDY}"
            ) from error
        return _Recorded(own, terms)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for each in self._optimizers.values() for group in each.param_groups]

    @contextmanager
    def _rates_as_tensors(self) -> Iterator[None]:
        """Inside, the optimizers read the learning rates from the device. Outside they are numbers,
        as checkpoints and the schedule have them."""
        groups = self._groups()
        before = [dict(group) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)


def _clone(stream: Batch) -> Batch:
    values: dict[str, Any] = stream._asdict()
    own = {name: v.clone() for name, v in values.items() if isinstance(v, Tensor)}
    return Batch(**values | own)


def _tensors(batches: Sequence[StepBatch]) -> dict[str, Tensor]:
    """All tensors of a step by what they are: `images of the source stream`."""
    named = {}
    for number, batch in enumerate(batches):
        of = f" of mini-batch {number + 1}" if number else ""
        for name, stream in batch._asdict().items():
            for what, value in ({} if stream is None else stream._asdict()).items():
                if isinstance(value, Tensor):
                    named[f"{what} of the {name} stream{of}"] = value
    return named


def _copy(own: Sequence[StepBatch], batches: Sequence[StepBatch]) -> None:
    """Fill the recording's batches with those of a step."""
    recorded, given = _tensors(own), _tensors(batches)
    for name in recorded | given:
        before, now = _size(recorded.get(name)), _size(given.get(name))
        if before != now:
            raise UserError(
                f"--cuda-graph: {name}: {before} when the step was recorded, {now} in this step; "
                f"give batches of one size, or {_REMEDY}"
            )
    for name, tensor in recorded.items():
        tensor.copy_(given[name])


def _size(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{'x'.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}"


def _fresh(terms: LossTerms) -> LossTerms:
    """Copies, which the next replay does not change: one launch for all of them."""
    values = iter(torch.stack([t for t in terms if t is not None]).unbind())
    return LossTerms(*(None if t is None else next(values) for t in terms))
