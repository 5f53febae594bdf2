"""The process of a candidate: builds it, then runs and measures steps on command."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import torch
from torch import nn

from fastass.bench.meters import peak_bytes, reset_peak, synchronize
from fastass.bench.model.flops import of_operators
from fastass.bench.step import memory
from fastass.bench.step.reference import ReferencePath
from fastass.checkpoint.files import find_checkpoint, load_generator
from fastass.config.schema import Config
from fastass.errors import USER_ERRORS, UserError
from fastass.kernels import without_winograd
from fastass.method.adaptation import MethodSpec, method_spec
from fastass.models.norm import FrozenBatchNorm2d
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import Runtime, setup_runtime
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build


@dataclass(frozen=True, kw_only=True)
class CandidateConfig:
    """What to build and time; it is sent to the process that builds it."""

    name: str
    kind: Literal["engine", "reference"]
    config: Config
    channels_last: bool = True
    """False: weights and images of the engine in NCHW."""
    fold_norm: bool = True
    """False: a frozen norm is a layer of its own."""
    winograd: bool = True
    """False: no convolution uses Winograd's form."""
    data: Literal["synthetic", "own"] = "synthetic"
    """`own`: read, decode and augment real images, each kind with its own loader."""
    count_flops: bool = False
    """Count the model FLOPs of a step before the first one."""


class UnfoldedNorm(nn.Module):
    """A frozen norm as plain torch runs it: a layer that reads and writes the whole map."""

    def __init__(self, like: FrozenBatchNorm2d) -> None:
        super().__init__()
        self.like = like

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.like
        return nn.functional.batch_norm(
            x, n.running_mean, n.running_var, n.weight, n.bias, training=False, eps=n.eps
        )


class Worker:
    """A built candidate; its public methods are what the parent process may ask for."""

    def __init__(self, candidate: CandidateConfig) -> None:
        config = candidate.config
        self.candidate, self.config = candidate, config
        self.runtime: Runtime = setup_runtime(config.runtime)
        self.device = self.runtime.device
        spec = method_spec(config.method, labelled=max(config.labelled, 1), mix=config.mix)
        module = build(config, spec)
        if candidate.data == "own" and config.init is not None:  # a run or a checkpoint
            load_generator(module.generator, find_checkpoint(config.init))
        self.optimizer_seconds = 0.0
        self.step_count = 0
        self.engine: TrainStep | None = None
        run: Callable[[StepBatch], object]
        if candidate.kind == "reference":
            path = ReferencePath(module, config, self.device)
            self.networks: nn.Module = path.networks
            optimizers = path.optimizers

            def run(streams: StepBatch) -> object:
                return path.step(streams, self.step_count)

        else:
            if not candidate.fold_norm:
                unfold(module)
            if not candidate.channels_last:
                module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            engine = self.engine = TrainStep(module, config, self.runtime)
            self.networks = module
            optimizers = list(engine.optimizers.values())

            def run(streams: StepBatch) -> object:
                with nullcontext() if candidate.winograd else without_winograd():
                    return engine.step([streams], adapt=True)

        self.optimizers, self.run = optimizers, run
        if not config.runtime.cuda_graph:  # where they are a part of the recording
            self._time_optimizers()
        self.batches = self._batches(spec)

    def _batches(self, spec: MethodSpec) -> Iterator[StepBatch]:
        channels_last = self.candidate.kind == "engine" and self.candidate.channels_last
        if self.candidate.data == "synthetic":
            batch = random_batch(self.config, spec, self.device, channels_last)
            while True:
                yield batch
        from fastass.bench.step.batches import baseline_batches, engine_batches

        own = engine_batches if self.candidate.kind == "engine" else baseline_batches
        yield from own(self.config, spec, self.runtime)

    def _time_optimizers(self) -> None:
        """Sum the seconds spent in `Optimizer.step`, with the device idle before and after."""
        started = 0.0

        def before(*args: object) -> None:
            nonlocal started
            started = self.now()

        def after(*args: object) -> None:
            self.optimizer_seconds += self.now() - started

        for optimizer in self.optimizers:
            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)

    def now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def step(self) -> dict[str, float]:
        self.optimizer_seconds = 0.0
        start = time.perf_counter()
        streams = next(self.batches)
        begin = time.perf_counter()
        self.run(streams)
        end = self.now()
        self.step_count += 1
        return {
            "wait": begin - start,
            "forward_backward": end - begin - self.optimizer_seconds,
            "optimizer": self.optimizer_seconds,
        }

    def memory(self) -> dict[str, float]:
        """MiB at the peak of one more step; on a CPU of the whole process and its loaders."""
        reset_peak(self.device)
        self.step()
        loaders = 0.0 if self.device.type == "cuda" else memory.children_mib()
        return {"peak": peak_bytes(self.device) / memory.MIB + loaders, "loaders": loaders}

    def tensors(self) -> dict[str, float]:
        """MiB of the tensors that fill the memory, in one more step."""
        with self._in_one_thread():
            return memory.tensors(self.networks, self.optimizers, self.step)

    def generator_weights(self) -> dict[str, torch.Tensor]:
        """The weights of the generator, on the CPU."""
        weights = self.networks.get_submodule("generator").state_dict()
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def flops(self) -> float:
        """Model FLOPs of one more step. Ask last: counting them holds memory."""
        from torch.utils.flop_counter import FlopCounterMode

        # The multiplications that Winograd's form saves are FLOPs of the model all the same.
        counter = FlopCounterMode(display=False, custom_mapping=of_operators())
        with self._in_one_thread(), without_winograd(), counter:
            self.run(next(self.batches))
        return float(counter.get_total_flops())

    @contextmanager
    def _in_one_thread(self) -> Iterator[None]:
        """Run source and target in one thread: torch's counters see only their own thread."""
        engine = self.engine
        if engine is None:
            yield
            return
        threads, engine.concurrent_backward = engine.concurrent_backward, None
        try:
            yield
        finally:
            engine.concurrent_backward = threads


def unfold(module: nn.Module) -> None:
    """Replace every frozen norm by one that is not folded into its convolution."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenBatchNorm2d):
                setattr(parent, name, UnfoldedNorm(child))


def serve(pipe: Connection, candidate: CandidateConfig) -> None:
    """Build the candidate, report its runtime, then answer until the other end closes."""
    try:
        worker = Worker(candidate)
        runtime = worker.runtime
        pipe.send({"line": runtime.line, "precision": runtime.amp_dtype or torch.float32})
        while True:
            what = pipe.recv()
            pipe.send(getattr(worker, what)())
    except EOFError:
        return
    except USER_ERRORS as error:
        pipe.send(error)
    except (torch.OutOfMemoryError, MemoryError) as error:
        pipe.send(UserError(f"bench: {candidate.name}: out of memory: {error}"))
