"""Runs of a second on a tiny ToyCity, what two of them must have in common, and checkpoints of a
tiny module without any run."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastass.checkpoint.files import find_checkpoint, read_state, read_weights, save_checkpoint
from fastass.checkpoint.own_files import EXAMPLES, METRICS, SUMMARY
from fastass.checkpoint.pointers import CLASSES, CONFIG, list_checkpoints
from fastass.pipelines.toycity import generate

TINY = (
    "--method ga+csa --no-mix --labelled 2 --steps 4 --start-steps 2 --batch 1 --accumulate 2 "
    "--workers 0 "
    "--data-source-size 64x32 --data-target-size 64x32 --model-width 16 --discriminator-width 4 "
    "--discriminator-hidden 8 --eval-every 2 --save-every 1 --log-every 1 --plain"
).split()
SAME = ("miou", "best_miou", "per_class_iou", "confusion", "start", "selection", "skipped_samples")

# Values of a run of a second or two, by the names of `fastass.train`.
SMALL: dict[str, Any] = {
    "method": "ga+csa",
    "mix": False,
    "labelled": 1,
    "steps": 2,
    "start_steps": 1,
    "batch": 2,
    "workers": 0,
    "model_width": 16,
    "discriminator_width": 4,
    "hidden": 8,
    "eval_every": 0,
    "source_size": (64, 32),
    "target_size": (64, 32),
}


def city(root: Path) -> Path:
    """ToyCity of 3 source, 2 target and 2 validation images in `root`."""
    small = (64, 32)
    generate(root, source=3, target=2, val=2, workers=1, source_size=small, target_size=small)
    return root


def train(city: Path, out: Path, *more: str) -> list[str]:
    """The words of the command; `--resume` starts where there is nothing to resume."""
    data = ["--data-source", str(city / "gta5"), "--data-target", str(city / "cityscapes")]
    return ["train", "toycity", *TINY, *data, "--out", str(out), "--resume", *more]


def weights(run: Path, link: str = "last") -> dict[str, torch.Tensor]:
    return read_weights(find_checkpoint(run / link))


def logged(run: Path) -> list[tuple[Any, ...]]:
    """What metrics.jsonl has of every step but its times."""
    records = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [(r["step"], r.get("terms"), r.get("eval"), r.get("lr")) for r in records]


def assert_same(run: Path, calm: Path) -> None:
    """Two finished runs are equal bit for bit: weights, losses (so order of samples), scores."""
    assert (calm / "last").exists()
    for link in ("last", "best", "start"):
        if not (calm / link).exists():  # without a start on the source
            continue
        assert find_checkpoint(run / link).name == find_checkpoint(calm / link).name
        mine, other = weights(run, link), weights(calm, link)
        assert mine.keys() == other.keys()
        for name, value in other.items():
            assert torch.equal(value, mine[name]), (link, name)
    assert logged(run) == logged(calm)
    mine, other = (json.loads((each / SUMMARY).read_text()) for each in (run, calm))
    assert {k: mine[k] for k in SAME} == {k: other[k] for k in SAME}
    for folder in (EXAMPLES, "checkpoints", "."):
        assert sorted(p.name for p in (run / folder).iterdir()) == sorted(
            p.name for p in (calm / folder).iterdir()
        )


def assert_readable(run: Path) -> int:
    """Every checkpoint of a run can be read; → their number."""
    found = list_checkpoints(run)
    for path in found:
        read_weights(path)
        read_state(path)
    return len(found)


def module(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.ModuleDict({"generator": nn.Linear(2, width), "other": nn.Linear(2, 2)})


def save(run: Path, step: int, *links: str, width: int = 3) -> Path:
    texts = {CONFIG: "steps: 1\n", CLASSES: "{}"}
    state: dict[str, Any] = {"engine": {}, "position": {}}
    weights = dict(module(width).state_dict())
    return save_checkpoint(run, step, weights, state, texts, ("last", *links))
