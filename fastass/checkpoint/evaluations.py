"""The evaluations that a run has logged."""

import contextlib
import json
from pathlib import Path
from typing import Any

from fastass.checkpoint.own_files import METRICS


def evaluations(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """(step, scores) of each evaluation in the run's metrics.jsonl, in order."""
    pairs: list[tuple[int, dict[str, Any]]] = []
    try:
        lines = (run / METRICS).read_bytes().splitlines()
    except OSError:
        return pairs
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):  # damaged
            record = json.loads(line)
            if "eval" in record:
                pairs.append((int(record["step"]), dict(record["eval"])))
    return pairs
