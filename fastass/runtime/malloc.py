"""How this process's malloc treats large blocks during training on a CPU.

A step allocates gigabytes in large blocks and frees them. Mapped one by one, each costs a page
fault per 4 KiB, so malloc keeps and reuses them; but only once everything that stays is allocated.
"""

from fastass.kernels import native_library


class Allocator:
    """Large blocks are mapped one by one in a phase's first step, and reused from then on."""

    def __init__(self, tuned: bool) -> None:
        """tuned: False changes nothing about malloc."""
        self._tuned = tuned
        self._first_step = False

    def begin(self) -> None:
        """A phase begins: its first step allocates gradients and optimizer state, which stay."""
        self._first_step = True
        if self._tuned:
            native_library.tune_allocator(reuse=False)

    def stepped(self) -> None:
        """A step has ended."""
        if self._first_step and self._tuned:
            native_library.tune_allocator(reuse=True)
        self._first_step = False
