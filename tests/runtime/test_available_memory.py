"""How much memory a process may still use: the machine's, and its control groups'."""

from pathlib import Path

import pytest

from fastass.runtime.available_memory import available_memory

MIB = 2**20
MEMINFO = "MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\nCached: 5 kB\n"


def files(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(path: str, limit: str, used: int, cached: int = 0, version: int = 2) -> dict[str, str]:
    names = ("memory.max", "memory.current", "inactive_file")
    top = "sys/fs/cgroup"
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        top += "/memory"
    stat = f"anon 7\ninactive_file 0\n{names[2]} {cached}\n"
    values = {names[0]: limit, names[1]: str(used), "memory.stat": stat}
    return {f"{top}{path}/{name}": f"{value}\n" for name, value in values.items()}


@pytest.mark.parametrize(
    ("texts", "mib"),
    [
        ({}, 1024),
        ({"proc/self/cgroup": "0::/\n"}, 1024),
        # Version 2: the group's own limit, an unlimited one, that of the group above.
        ({"proc/self/cgroup": "0::/a/b\n", **group("/a/b", str(512 * MIB), 100 * MIB)}, 412),
        ({"proc/self/cgroup": "0::/a/b\n", **group("/a/b", "max", 100 * MIB)}, 1024),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                **group("/a/b", str(900 * MIB), 0),
                **group("/a", str(512 * MIB), 300 * MIB, cached=50 * MIB),
            },
            262,
        ),
        ({"proc/self/cgroup": "0::/a\n", **group("/a", str(4096 * MIB), 0)}, 1024),
        # More used than permitted: nothing is left.
        ({"proc/self/cgroup": "0::/a\n", **group("/a", str(5 * MIB), 6 * MIB)}, 0),
        # A container sees its own group at the top, and the host's path.
        ({"proc/self/cgroup": "0::/host/pod\n", **group("", str(300 * MIB), 0)}, 300),
        # Version 1, its word for no limit, and other controllers.
        (
            {
                "proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/y\n",
                **group("/y", str(200 * MIB), 60 * MIB, cached=10 * MIB, version=1),
            },
            150,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/y\n",
                **group("/y", "9223372036854771712", 60 * MIB, version=1),
            },
            1024,
        ),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, texts: dict[str, str], mib: int) -> None:
    root = files(tmp_path, {"proc/meminfo": MEMINFO, **texts})
    assert available_memory(root) == mib * MIB


@pytest.mark.parametrize("meminfo", [None, "", "MemAvailable: many kB\n"])
def test_a_system_that_does_not_say(tmp_path: Path, meminfo: str | None) -> None:
    root = files(tmp_path, {} if meminfo is None else {"proc/meminfo": meminfo})
    assert available_memory(root) is None


def test_this_machine() -> None:
    available = available_memory()
    assert available is not None
    assert 2**20 < available < 2**50
