"""The operators: class means, the pixel discriminator's loss, upsampled cross-entropy, evaluation counts.

Each has three implementations of one contract (reference, native, triton); `use` chooses among them.
"""

from fastass.kernels.dispatch import available, choice, resolve, use

__all__ = ["available", "choice", "resolve", "use"]
