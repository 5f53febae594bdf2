"""How much memory one call takes: for files that claim to be larger than they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 10  # in the kB of /proc
SLACK = 32 * MIB
"""What allocators, caches and first imports may add to a small file's need."""
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kb(key: str) -> int:
    return int(_STATUS.read_text().partition(f"{key}:")[2].split()[0])


@contextmanager
def growth_below(honest_kb: int = 0) -> Iterator[None]:
    """AssertionError if the process's peak grows by more than 4 × the honest need and `SLACK`.

    honest_kb: what a sound file of this kind needs. Linux alone has the peak; elsewhere nothing is
    measured.
    """
    try:
        _RESET.write_text("5")  # the peak starts anew
    except OSError:
        yield
        return
    before = _kb("VmRSS")
    yield
    grown = _kb("VmHWM") - before
    assert grown <= 4 * honest_kb + SLACK, f"{grown // MIB} MiB for one file"
