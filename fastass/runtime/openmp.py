"""How OpenMP's threads wait for work: spinning, or asleep."""

import os
import sys

# Idle threads look for work for some ten microseconds, which spares most of a small step's hundreds
# of wake-ups, and then sleep. On cores shared with other processes spinning for longer made a
# training step of the tiny network several times slower (docs/decisions.md).
_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def wait_passively() -> bool:
    """Let this process's idle OpenMP threads sleep, and those of the processes that it starts.

    Works before torch is imported only, because OpenMP reads its settings when it is loaded.
    → Whether it was in time. Afterwards nothing is changed. Variables that are set already stay.
    """
    if "torch" in sys.modules:
        return not threads_spin()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    return True


def threads_spin() -> bool:
    """Whether idle OpenMP threads spin, by the environment that torch was loaded in."""
    policy = os.environ.get("OMP_WAIT_POLICY", "").upper()
    return policy != "PASSIVE" and "GOMP_SPINCOUNT" not in os.environ
