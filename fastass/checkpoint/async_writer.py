"""Saving in the background: a step waits for a copy in memory, not for the disk."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastass.checkpoint.files import save_checkpoint


class AsyncWriter:
    """Writes the checkpoints of a run in a thread, at most one at a time.

    If the disk refuses, the next `save` or `wait` raises the error, whichever comes first.
    With `background=False`, `save` returns when the checkpoint is on disk.
    """

    def __init__(self, run: Path, *, background: bool) -> None:
        self.run, self.background = run, background
        self._pool = ThreadPoolExecutor(1, "fastass-save")
        self._written: Future[Path] | None = None

    def save(
        self,
        step: int,
        module: nn.Module,
        state: dict[str, Any],
        texts: dict[str, str],
        links: tuple[str, ...],
        header: dict[str, str] | None = None,
    ) -> None:
        """Save the module and state as they are now; see `save_checkpoint`."""
        self.wait()
        weights = copied(module.state_dict())
        job = (self.run, step, weights, copied(state), texts, links, header)
        self._written = self._pool.submit(save_checkpoint, *job)
        if not self.background:
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk. Raises UserError when the disk refused it."""
        written, self._written = self._written, None
        if written is not None:
            written.result()


def copied(value: Any) -> Any:
    """The same nested dicts, lists and tuples; tensors copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.preserve_format)
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(v) for v in value)
    return value
