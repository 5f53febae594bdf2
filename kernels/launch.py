"""What the launches share: sizes, and whether the kernels are interpreted."""

import triton


def interpreting() -> bool:
    """Kernels run in Triton's interpreter (TRITON_INTERPRET=1), whose bf16 arithmetic is wrong."""
    return bool(triton.knobs.runtime.interpret)


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_2(n: int, at_least: int = 1) -> int:
    """The smallest power of two that is neither below n nor below `at_least`."""
    return max(at_least, 1 << (n - 1).bit_length())
