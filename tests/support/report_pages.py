"""Finished runs without training, and their report as a page that tests can ask."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from fastass.cli.main import main
from fastass.config.presets import preset
from fastass.config.text import override, to_yaml
from fastass.inference.visualize import save_example
from fastass.pipelines.datasets.classes import CITYSCAPES

NAMES = list(CITYSCAPES.names)


def scores(shift: float) -> dict[str, Any]:
    confusion = np.eye(19, dtype=int) * 700 + np.arange(361).reshape(19, 19) % 7
    per_class: dict[str, float | None] = {
        name: min(100.0, shift + 2 * i) for i, name in enumerate(NAMES)
    }
    per_class["train"] = None
    return {
        "miou": shift + 17,
        "reported_miou": shift + 17,
        "reported_classes": 19,
        "per_class_iou": per_class,
        "confusion": confusion.tolist(),
        "norm_statistics": "mixed",
        "by_statistics": {
            kind: {"miou": shift + more, "reported_miou": shift + more}
            for kind, more in (("mixed", 17), ("domain", 18.5))
        },
    }


def make_run(path: Path, name: str = "toycity", *, examples: int = 2, **changes: Any) -> Path:
    """A finished run, without training."""
    config = override(preset(name), changes).resolved()
    start_steps, total = config.start_steps, config.total_steps
    path.mkdir()
    (path / "config.yaml").write_text(to_yaml(config))
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "lr": 0.1,
            "skipped": 0,
            "images_per_second": 40.0,
            "data_wait": 0.03,
            "terms": {"seg_source": 1 / step, "gadv": math.log(step), "gd_source": 1.0},
        }
        for step in range(10, total + 1, 10)
    ]
    lines += [{"step": s, "eval": scores(v)} for s, v in ((start_steps, 5), (total, 30))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = scores(5) if start_steps else None
    summary = {
        **scores(30),
        "start": start,
        "images_per_second": 41.3,
        "training_seconds": 174.2,
        "peak_memory_mib": 663.1,
        "device": "cpu",
        "kernels": "native",
        "amp": "off",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "finished": "2026-11-29 08:00 UTC",
        "command": "fastass train toycity --seed 3",
        "commit": "c0ffee",
        "selection": {
            "best": 51.04,
            "best_step": 550,
            "mean_of_last": 46.5,
            "std_of_last": 0.52,
            "evaluations_in_mean": 5,
        },
    }
    (path / "summary.json").write_text(json.dumps(summary))
    means = {
        "mean_distance": 0.5,
        "explained": 0.6,
        "classes": {
            n: {"distance": 0.1 * i, "source": [i, i % 3], "target": [i, 1.0]}
            for i, n in enumerate(NAMES)
        },
    }
    (path / "class_means.json").write_text(json.dumps({"start": means, "last": means}))
    rng = np.random.default_rng(0)
    for i in range(examples):
        photo = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
        truth = np.repeat(np.arange(20, dtype=np.uint8), 4)[None].repeat(40, 0)
        truth[truth == 19] = 255
        labels = {"truth": truth, "start": truth * 0, "last": np.minimum(truth, 18)}
        save_example(path / "examples", i, photo, labels, CITYSCAPES)
    return path


class Page(HTMLParser):
    """What the tests ask of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(*runs: Path) -> Page:
    out = runs[0].parent / "report.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    return Page(out)
