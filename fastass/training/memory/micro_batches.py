"""Out of GPU memory in a step: the step runs again with its batches cut in halves.

The gradients of the pieces add up to those of the whole batch, because each piece is weighted by
its valid items, as accumulated batches are (`fastass.method.item_weights`). That holds only where
no image's output depends on the other images of its batch, so not for batch norm in training.

The failed try leaves nothing behind: its gradients are dropped and the random numbers put back.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from fastass.config.schema import Config
from fastass.models.domain_statistics import running_norms
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.process_group import World
from fastass.training.cuda_graph import GRAPH_MODES

Result = TypeVar("Result")


class MicroBatches:
    """Into how many pieces each batch of this run is cut. More after each error, never fewer."""

    def __init__(
        self, config: Config, module: torch.nn.Module, world: World, *, concurrent: bool
    ) -> None:
        self.pieces = 1
        self.note: Callable[[str], None] = lambda line: None  # is called with one line per cut
        self._config, self._module = config, module
        self._obstacle = _why_not(config, module, world, concurrent)

    def run(
        self, work: Callable[[Sequence[StepBatch]], Result], batches: Sequence[StepBatch]
    ) -> Result:
        """`work` on all pieces, cut so that they fit.

        OutOfMemoryError, with a note on what would fit, where pieces would change the gradients,
        the ranks could not follow, or one image does not fit.
        """
        while True:
            before = None if self._obstacle else _random_state()
            try:
                return work([piece for batch in batches for piece in cut(batch, self.pieces)])
            except torch.OutOfMemoryError as error:
                if before is None or self._images(batches) == 1:
                    error.add_note(self._advice(self._images(batches)))
                    raise
            # Outside of `except`: the error holds the activations of the failed try.
            self._forget(before)
            self.pieces *= 2
            self.note(
                f"out of GPU memory: from this step on each batch is cut into {self.pieces} "
                "micro-batches, with equal gradients; the run is slower. Give a smaller --batch "
                "and a larger --accumulate to avoid the failed try"
            )

    def _images(self, batches: Sequence[StepBatch]) -> int:
        """Images per stream in the largest piece."""
        sizes = [len(stream.images) for batch in batches for stream in batch if stream is not None]
        return -(-max(sizes) // self.pieces)

    def _forget(self, before: list[torch.Tensor]) -> None:
        for parameter in self._module.parameters():
            parameter.grad = None
        torch.set_rng_state(before[0])
        if torch.cuda.is_initialized():
            torch.cuda.set_rng_state(before[1])
            torch.cuda.empty_cache()  # blocks of the sizes that did not fit

    def _advice(self, images: int) -> str:
        """For the line that ends the run."""
        if images == 1:
            return "one image per stream does not fit"
        half, accumulate = images // 2, self._config.accumulate
        remedy = f"try --batch {half}"
        if not running_norms(self._module):  # the same gradients
            remedy += f" --accumulate {accumulate * 2}"
        return f"{self._obstacle}; {remedy}"


def cut(batch: StepBatch, pieces: int) -> list[StepBatch]:
    """A batch in at most so many pieces, one after the other, of almost equal size."""
    sizes = [len(stream.images) for stream in batch if stream is not None]
    pieces = min(pieces, *sizes, max(sizes))
    if pieces == 1:
        return [batch]
    streams = [_cut(stream, pieces) for stream in batch]
    return [StepBatch(*piece) for piece in zip(*streams, strict=True)]


def _cut(stream: Batch | None, pieces: int) -> Sequence[Batch | None]:
    if stream is None:
        return [None] * pieces
    values = (stream.images, stream.labels, stream.pasted, stream.confidence)
    columns = [[None] * pieces if v is None else v.tensor_split(pieces) for v in values]
    found = []
    for images, labels, pasted, confidence in zip(*columns, strict=True):
        assert images is not None
        found.append(Batch(images, labels, pasted=pasted, confidence=confidence))
    return found


def _why_not(config: Config, module: torch.nn.Module, world: World, concurrent: bool) -> str | None:
    """Why a batch of this run can't be cut."""
    if running_norms(module):
        return (
            f"the batch is not cut, because gradients with norm {config.model.norm} depend on the "
            "cut"
        )
    if world.grouped:
        return "the batch is not cut, because all ranks would have to cut theirs at the same time"
    if config.runtime.compile and config.runtime.compile_mode in GRAPH_MODES:
        return f"the batch is not cut, because --compile-mode {config.runtime.compile_mode} can't"
    if config.runtime.cuda_graph:
        return "the batch is not cut, because --cuda-graph records whole batches"
    if concurrent:
        return "the batch is not cut, because its streams run concurrently"
    return None


def _random_state() -> list[torch.Tensor]:
    """Of the CPU and, where it is in use, of the current GPU."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states
