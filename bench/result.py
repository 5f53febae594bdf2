"""The file of `--json`: what a benchmark measured, and which command did."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastass.runtime.atomic_write import check_replaceable, write_whole

MARK = "measured_by"


def check_result_file(path: Path) -> None:
    """UserError unless a result can be written to `path`; for before the measurement."""
    check_replaceable(path, f'"{MARK}"', "a benchmark's result")


def write_result(path: Path, command: str, result: Mapping[str, Any]) -> None:
    """Write `result` as JSON. command: what measured it, such as `fastass bench step`."""
    check_result_file(path)
    write_whole(path, json.dumps({MARK: command, **result}, indent=2) + "\n")
