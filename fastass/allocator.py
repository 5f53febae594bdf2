"""This process's malloc through the steps of a phase of training, on a CPU.

A step allocates gigabytes in large blocks and frees them. Mapped one by one, each costs a page
fault for every 4 KiB; kept and reused they are cut up, so that more is held than ever is in use.
"""

import os
import resource
from pathlib import Path

from fastass.kernels import native


class Allocator:
    """Large blocks are mapped one by one while a phase makes what stays, then reused."""

    def __init__(self, tuned: bool, *, lean: bool) -> None:
        """tuned: whether anything is done at all. lean: hold only as much as one step needs at
        once, at the price of some faults."""
        self.tuned, self.lean = tuned, lean
        self._steps = 0

    def begin(self) -> None:
        """A phase begins: in its first step gradients and optimizer state are made, which stay."""
        self._steps = 0
        if self.tuned:
            native.tune_allocator(0)

    def stepped(self) -> None:
        """A step has ended. A second one, with everything in place, tells what a step needs."""
        self._steps += 1
        if self.tuned and self._steps == (2 if self.lean else 1):
            native.tune_allocator(_transient() if self.lean else None)


def _transient() -> int:
    """Bytes by which the process's memory has been larger than it is."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return max(0, peak - resident)
