"""Prints benchmark results: `python -m bench.ops.table RESULT.json [--json]`.

RESULT.json is what `pytest bench/ --benchmark-json=RESULT.json` wrote. One row for each op, pass
and implementation: the median, how many times faster than the reference and than the best of all
other implementations, the share of the limit (copy bandwidth or highest rate of multiply-adds of
that run) that it reaches, the peak memory of one call and its share of the reference's.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

COLUMNS = {
    "op": "op",
    "pass": "pass",
    "implementation": "implementation",
    "median_ms": "median ms",
    "vs_reference": "× reference",
    "vs_best_alternative": "× best alternative",
    "limit_percent": "% of limit",
    "peak_mib": "peak MiB",
    "peak_vs_reference": "peak / reference",
}
OURS = "fastass"


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each implementation of each benchmark, in the order of the file."""
    sides_of_all = []
    for benchmark in result["benchmarks"]:
        info = benchmark["extra_info"]
        sides = info["sides"]
        reference = sides["reference"]
        best = min(side["median"] for name, side in sides.items() if name != OURS)
        for name, side in sides.items():
            sides_of_all.append(
                {
                    "op": info["op"],
                    "pass": info["passes"],
                    "implementation": name,
                    "median_ms": side["median"] * 1e3,
                    "vs_reference": reference["median"] / side["median"],
                    "vs_best_alternative": best / side["median"] if name == OURS else None,
                    "limit_percent": 100 * info["limit_seconds"] / side["median"],
                    "peak_mib": side["peak"] / 2**20,
                    "peak_vs_reference": side["peak"] / max(reference["peak"], 1),
                }
            )
    return sides_of_all


def heading(result: dict[str, Any]) -> str:
    """Where and with what the run was made: one line for each distinct setting."""
    lines = []
    for benchmark in result["benchmarks"]:
        info = benchmark["extra_info"]
        parts = [info["device"], f"torch {info['torch']}", info["dtype"]]
        if info["isa"]:
            threads = f"{info['threads']} threads"
            parts += [threads, info["isa"], f"malloc {info['allocator']}"]
        parts.append(f"copy {info['copy_bandwidth'] / 1e9:.1f} GB/s")
        line = ", ".join(parts)
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    cells = [[_cell(row[key]) for key in COLUMNS] for row in rows]
    return tabulate(cells, [*COLUMNS.values()], tablefmt="github", disable_numparse=True)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and value < 100 else _plain(value)


def _plain(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ops.table", description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args(argv)
    try:
        result = json.loads(arguments.result.read_text())
    except (OSError, json.JSONDecodeError) as error:
        print(f"{arguments.result}: {error}", file=sys.stderr)
        return 2
    table = rows(result)
    text = json.dumps(table, indent=1) if arguments.json else markdown(table)
    print(text if arguments.json else f"{heading(result)}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
