"""What a Triton kernel launches with, as data: the launch and the ahead-of-time gate read the same.

Each module with Triton kernels lists its launches in a constant `AOT: tuple[Launch, ...]`, one
entry for every combination of dtypes and constexprs that training and evaluation use, built from
the same functions and tables that the real launch takes its constexprs and warps from.
`compile_check` compiles them for GPUs that are not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """What a launch may cost, in its machine code; the gate fails where it costs more.

    ctas: the fewest programs that a multiprocessor must hold at once: registers and shared memory
        limit them.
    instructions: the most warp instructions per pixel, of a program that does its share of the
        sizes in `arguments`; 0 sets no bound. They are counted, not run: the code of a loop counts
        as often as `trips` says.
    pixels: pixels of one program.
    trips: how often the loops run, the outermost first; loops at the same depth run alike.
    """

    ctas: int = 1
    instructions: float = 0
    pixels: int = 0
    trips: tuple[int, ...] = ()


@dataclass(frozen=True)
class Launch:
    """One configuration of one Triton kernel.

    name: shown in the gate's table, unique within the module, e.g. "forward bf16".
    kernel: the `@triton.jit` function.
    arguments: every parameter that is not a constexpr, by name: a `torch.dtype` stands for an
        aligned pointer to it, an int or a float for itself (sizes as they really are, since Triton
        specialises on divisibility by 16).
    constants: every constexpr parameter, by name.
    num_warps, num_stages: as launched.
    dot: the kernel multiplies matrices: the gate fails where no matrix instruction comes out.
    wide: the kernel must read global memory in 16-byte pieces: the gate fails where none comes out.
    bounds: what it may cost.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    dot: bool = False
    wide: bool = False
    bounds: Bounds = Bounds()
