"""How much memory this process may still use on a CPU, without making the system kill it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

KIB = 1024
_UNLIMITED = 1 << 60  # what version 1 of cgroups writes for no limit is near 2^63


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes: of the machine, or of the control group that this process is in if it has fewer.

    None where the system does not say. root: of the system's files, for tests.
    """
    limits = [_of_the_machine(root), *_of_the_groups(root)]
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def _of_the_machine(root: Path) -> int | None:
    """What Linux expects to be available without swapping."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * KIB
    return None


def _of_the_groups(root: Path) -> Iterator[int | None]:
    """What is left in the group of this process and in each one above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            names = ("memory.max", "memory.current")
            top = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be that of the host: then only the top exists.
        for folder in (group, *group.parents):
            yield _left(folder, *names)
            if folder == top:
                break


def _left(folder: Path, limit: str, usage: str) -> int | None:
    """Of one group; None without a limit. Cached files count as free: they are dropped first."""
    try:
        most = int((folder / limit).read_text(encoding="ascii"))  # "max" is a ValueError
        used = int((folder / usage).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    if most >= _UNLIMITED:
        return None
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        pairs = (line.split() for line in lines if line)
        values = {name: int(value) for name, value in pairs}
        used -= values.get("total_inactive_file", values.get("inactive_file", 0))
    return most - used
