"""This process's malloc through the steps of a phase of training, on a CPU.

A step allocates gigabytes in large blocks and frees them. Mapped one by one, each costs a page
fault for every 4 KiB, so they are kept and reused; but not before everything that stays is there.
"""

from fastass.kernels import native_library


class Allocator:
    """Large blocks are mapped one by one while a phase makes what stays, then reused."""

    def __init__(self, tuned: bool) -> None:
        """tuned: whether anything is done at all."""
        self._tuned = tuned
        self._first = False

    def begin(self) -> None:
        """A phase begins: in its first step gradients and optimizer state are made, which stay."""
        self._first = True
        if self._tuned:
            native_library.tune_allocator(reuse=False)

    def stepped(self) -> None:
        """A step has ended."""
        if self._first and self._tuned:
            native_library.tune_allocator(reuse=True)
        self._first = False
