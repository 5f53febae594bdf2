"""Reads machine code: what `cuobjdump -sass -res-usage` prints for one kernel."""

import re
from collections.abc import Sequence

_MATRIX = re.compile(r"\b(HMMA|HGMMA|IMMA|IGMMA|QGMMA|UTCHMMA|UTCQMMA|UTCIMMA|OMMA|QMMA)\b")
_LOAD16 = re.compile(r"\b(?:LDG|LDGSTS)\.\S*\b128\b|\bUTMALDG\b")
_SPILL = re.compile(r"\b(?:STL|LDL)\b")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);")
_BRANCH = re.compile(r"\bBRA\b.*?0x([0-9a-f]+)")

# Shared memory of a multiprocessor; of it, a CTA takes 1 kB more than it asks for.
_SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
_REGISTERS, _THREADS, _CTAS = 65536, 2048, 32


def registers(code: str) -> int:
    """Registers per thread."""
    found = re.search(r"REG:(\d+)", code)
    if found is None:
        raise ValueError("no resource usage in the machine code")
    return int(found[1])


def counts(code: str) -> tuple[int, int, int]:
    """Spill instructions, matrix instructions and 16-byte global loads."""
    return len(_SPILL.findall(code)), len(_MATRIX.findall(code)), len(_LOAD16.findall(code))


def ctas(arch: int, registers: int, shared: int, warps: int) -> int:
    """How many CTAs a multiprocessor holds at once: a warp takes registers in blocks of 256."""
    by_registers = _REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return min(by_registers, _SHARED[arch] // (shared + 1024), _THREADS // (32 * warps), _CTAS)


def executed(code: str, trips: Sequence[int]) -> int:
    """Instructions that a warp executes if loops at depth d run trips[d] times.

    A loop is what lies between a branch backwards and its target. A loop that is deeper than
    `trips` says counts once per trip of the loop around it. Both sides of a branch count, and so
    does each copy of an unrolled loop as often as the loop: an upper bound.
    """
    instructions = [(int(at, 16), text) for at, text in _INSTRUCTION.findall(code)]
    loops = set()
    for at, text in instructions:
        branch = _BRANCH.search(text)
        # The code ends with a branch to itself, which nothing reaches.
        if branch and int(branch[1], 16) < at:
            loops.add((int(branch[1], 16), at))
    total = 0
    for at, text in instructions:
        if text.strip() == "NOP":
            continue
        around = sum(first <= at <= last for first, last in loops)
        times = 1
        for count in trips[:around]:
            times *= count
        total += times
    return total
