"""The model card of an export: what was trained on what, how well it does, and what is left to say.

The figures come from the run, if the network was loaded from one. fastass can't know the licence,
the intended use and the limits; the card names them as places to fill in.
"""

import contextlib
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fastass.checkpoint.evaluations import evaluations
from fastass.checkpoint.json_file import read_json
from fastass.checkpoint.own_files import CONFIG, SUMMARY, read_labelled
from fastass.config.schema import STATISTICS, Config
from fastass.config.text import from_yaml
from fastass.errors import UserError
from fastass.inference.segmenter import Segmenter

HEADING = "# Model card"
FILL_IN = "*fill in*"


def model_card(segmenter: Segmenter, name: str) -> str:
    """The card as Markdown. name: of the exported file or folder."""
    config, scores, made = _of_run(segmenter.origin)
    unknown = f"The run is not known. Data and method: {FILL_IN}"
    parts = [
        f"{HEADING}: {name}",
        _network(segmenter),
        "## Training",
        _training(config, segmenter.origin) if config else unknown,
        "## Results",
        _results(scores, segmenter) if scores else f"Not evaluated in the run. mIoU: {FILL_IN}",
        "## Licence, use and limits",
        f"- Licence of the weights: {FILL_IN}. The licences of the training data and of the "
        "initial weights may restrict it.\n"
        f"- Intended use: {FILL_IN}\n"
        f"- Where it should not be used, and what it confuses: {FILL_IN}\n"
        f"- People and places in the training images: {FILL_IN}",
        "## How it was made",
        _made(made),
    ]
    return "\n\n".join(parts) + "\n"


def _of_run(
    origin: Path | None,
) -> tuple[Config | None, dict[str, Any] | None, dict[str, Any]]:
    """The configuration of a checkpoint, its evaluation and its run's summary, where they are."""
    if origin is None or not (origin / CONFIG).is_file():
        return None, None, {}
    try:
        config = from_yaml(origin / CONFIG)
    except UserError:
        return None, None, {}
    run = origin.parent.parent
    scores = {f"step-{step:08d}": found for step, found in evaluations(run)}.get(origin.name)
    try:
        summary = read_json(run / SUMMARY) if (run / SUMMARY).is_file() else {}
    except UserError:  # damaged
        summary = {}
    return config, scores, {"checkpoint": origin.name, **summary}


def _network(segmenter: Segmenter) -> str:
    model, (width, height) = segmenter.generator.config, segmenter.prepare.size
    kind = "an RGB image" if model.channels == 3 else f"an image of {model.channels} channels"
    return (
        f"DeepLab-v2 with the backbone {model.backbone}, norm {model.norm}. It gives each pixel of "
        f"{kind} one of {len(segmenter.classes)} classes: "
        f"{', '.join(segmenter.classes.names)}. Trained at {width}x{height}."
    )


def _training(config: Config, origin: Path | None) -> str:
    data = config.data
    labelled = f"{config.labelled} (chosen by seed {config.labelled_seed})"
    if config.labelled_list is not None and origin is not None:
        with contextlib.suppress(UserError):  # a damaged run
            labelled = f"{len(read_labelled(origin.parent.parent))} (named in a list)"
    source = "none" if config.method == "oracle" else _named(data.source)
    unlabelled = config.method.startswith("ga") or config.mix
    mix = " with self-training on mixed images (--mix)" if config.mix else ""
    rows = [
        ("method", f"{config.method}{mix}"),
        ("source data, labelled", source),
        ("target data", _named(data.target)),
        ("labelled target images", labelled),
        ("unlabelled target images", "all others" if unlabelled else "not used"),
        ("initial weights", _named(config.init) if config.init else "random"),
        ("steps", f"{config.start_steps} supervised + {config.steps} of the method"),
        ("batch", f"{config.global_batch} images per stream"),
        ("seed", str(config.seed)),
    ]
    return tabulate(rows, ["", ""], tablefmt="github", disable_numparse=True)


def _named(path: str | None) -> str:
    """The last part of a path: the rest is about the machine, not about the model."""
    return Path(path).name if path else FILL_IN


def _results(scores: dict[str, Any], segmenter: Segmenter) -> str:
    used = segmenter.norm_statistics
    kinds = scores.get("by_statistics") or {}
    lines = ["IoU in percent on the validation images of the target, evaluated in the run.", ""]
    for kind, words in STATISTICS.items():
        if kind in kinds:
            here = ", which this export has" if kind == used else ""
            miou = kinds[kind]["reported_miou"]
            lines.append(f"- mIoU with {words} running statistics{here}: {miou:.1f}")
    if not kinds:
        lines.append(f"- mIoU: {scores['reported_miou']:.1f}")
    rows = [
        (name, "–" if value is None else f"{value:.1f}")
        for name, value in scores["per_class_iou"].items()
    ]
    judged = scores.get("norm_statistics")
    with_these = f" ({STATISTICS[judged]} statistics)" if judged in STATISTICS else ""
    table = tabulate(rows, ["class", f"IoU{with_these}"], tablefmt="github", disable_numparse=True)
    return "\n".join([*lines, "", table])


def _made(summary: dict[str, Any]) -> str:
    keys = ("command", "commit", "checkpoint", "finished", "device", "amp", "training_seconds")
    known = {key: summary[key] for key in keys if summary.get(key)}
    rows = [
        (key.replace("_", " "), f"{value:.0f}" if isinstance(value, float) else f"{value}")
        for key, value in known.items()
    ]
    if isinstance(versions := summary.get("versions"), dict):
        rows.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items())))
    if not rows:
        return f"Not known. Command, commit and versions: {FILL_IN}"
    return tabulate(rows, ["", ""], tablefmt="github", disable_numparse=True)
