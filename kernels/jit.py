"""Triton where it is installed. Without it the op files still import, and `dispatch` says why
`triton` cannot be chosen; a kernel is then a plain function that nothing launches.
"""

from typing import Any

try:
    import triton
    import triton.language as tl

    jit = triton.jit
except ImportError:
    triton = tl = None

    def jit(function: Any) -> Any:
        return function


def interpreting() -> bool:
    """Kernels run in Triton's interpreter (TRITON_INTERPRET=1), whose bf16 arithmetic is wrong."""
    return bool(triton is not None and triton.knobs.runtime.interpret)


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_2(n: int, at_least: int = 1) -> int:
    """The smallest power of two that is neither below n nor below `at_least`."""
    return max(at_least, 1 << (n - 1).bit_length())
