"""Machine code is read as `cuobjdump -sass -res-usage` prints it."""

import pytest

from fastass.kernels.aot import machine_code

# A loop in a loop, a branch forwards, and the branch to itself with which code ends.
CODE = """
 Function kernel: REG:90 STACK:0 SHARED:0
        /*0000*/                   MOV R1, c[0x0][0x28] ;      /* 0x00000a0000017a02 */
        /*0010*/                   S2R R0, SR_CTAID.X ;
        /*0020*/              @P1 BRA 0x80 ;
        /*0030*/                   FFMA R2, R2, R3, R4 ;
        /*0040*/                   LDG.E.128 R4, [R2.64] ;
        /*0050*/              @P0 BRA 0x40 ;
        /*0060*/                   FADD R2, R2, R3 ;
        /*0070*/              @P0 BRA 0x30 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90;
        /*00a0*/                   NOP;
"""


def test_registers() -> None:
    assert machine_code.registers(CODE) == 90
    with pytest.raises(ValueError, match="resource usage"):
        machine_code.registers("FFMA")


def test_counts() -> None:
    assert machine_code.counts(CODE) == (0, 0, 1)
    assert machine_code.counts("STL [R1], R2 ; HMMA.16816.F32 R4 ; UTMALDG.2D") == (1, 1, 1)


@pytest.mark.parametrize(
    ("trips", "expected"),
    [
        ((), 10),
        # 5 outside both loops, 3 in the outer one, 2 in the inner one.
        ((7,), 5 + 3 * 7 + 2 * 7),
        ((7, 3), 5 + 3 * 7 + 2 * 7 * 3),
    ],
)
def test_executed(trips: tuple[int, ...], expected: int) -> None:
    assert machine_code.executed(CODE, trips) == expected


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "warps", "expected"),
    [
        (90, 168, 0, 4, 3),
        (90, 161, 0, 4, 3),  # in blocks of 8 per thread
        (90, 160, 0, 4, 3),
        (90, 128, 0, 4, 4),
        (90, 32, 0, 4, 16),  # 2048 threads
        (90, 32, 0, 1, 32),  # 32 CTAs
        (90, 32, 75 << 10, 4, 3),
        (80, 32, 75 << 10, 4, 2),
    ],
)
def test_ctas(arch: int, registers: int, shared: int, warps: int, expected: int) -> None:
    assert machine_code.ctas(arch, registers, shared, warps) == expected
