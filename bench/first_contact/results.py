"""results.jsonl: one line per number, on the disk as soon as it is known."""

import json
import os
import time
from pathlib import Path
from typing import Any


class Results:
    """Appends lines to DIR/results.jsonl; several processes may, one after the other."""

    def __init__(self, out: Path, stage: str) -> None:
        self.out, self.stage = out, stage
        self.path = out / "results.jsonl"

    def write(self, **values: Any) -> None:
        """One line: the stage, the time of day and the values. It survives a killed process."""
        line = {"stage": self.stage, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **values}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
