"""What a run writes at its end: summary, table of IoU, contact sheet, examples, class means."""

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from fastass.checkpoint.files import find_checkpoint, load_generator
from fastass.checkpoint.json_file import read_json
from fastass.checkpoint.own_files import CLASS_MEANS, EXAMPLES, SHEET, SUMMARY
from fastass.checkpoint.pointers import START, target
from fastass.checkpoint.run_directory import RunDirectory, versions
from fastass.config.schema import Config, NormStatistics
from fastass.errors import UserError
from fastass.evaluation import class_centroids
from fastass.inference.predict import predict
from fastass.inference.visualize import colorize, contact_sheet, save_example
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.runtime.atomic_write import writing
from fastass.runtime.device import Runtime, describe
from fastass.runtime.peak_memory import peak_memory
from fastass.training.data import TrainingData
from fastass.training.provenance import provenance

MIB = 2**20
ROWS = 6  # of the contact sheet
_FILE = {"source only": "start", "adapted": "last"}  # a network's word in file names


def summarize(
    config: Config,
    runtime: Runtime,
    *,
    labelled: int,
    start: dict[str, Any] | None,
    last: dict[str, Any],
    best_miou: float,
    selection: dict[str, Any],
    images_per_second: float,
    seconds: float,
    skipped: int,
) -> dict[str, Any]:
    """The content of summary.json. IoU in percent; `start` is the supervised start's evaluation."""
    return {
        "preset": config.preset,
        "method": config.method,
        "mix": config.mix,
        "labelled": labelled,
        "steps": config.total_steps,
        "seed": config.seed,
        "ranks": config.distributed.world,
        "miou": last["miou"],
        "per_class_iou": last["per_class_iou"],
        "reported_classes": last["reported_classes"],
        "reported_miou": last["reported_miou"],
        "confusion": last["confusion"],
        "norm_statistics": last.get("norm_statistics"),
        "by_statistics": last.get("by_statistics", {}),
        "best_miou": best_miou,
        "selection": selection,
        "start": start,
        "images_per_second": images_per_second,
        "training_seconds": seconds,
        "skipped_samples": skipped,
        "peak_memory_mib": peak_memory(runtime.device) / MIB,
        "device": describe(runtime.device),
        "kernels": runtime.kernels,
        "amp": runtime.amp_name,
        "versions": versions(),
        **provenance(),
    }


def table(summary: dict[str, Any]) -> str:
    """Per-class IoU and mIoU on target val, beside those of the start if there was one."""
    start = summary["start"]
    kind = "oracle" if summary["method"] == "oracle" else "source"
    columns = [*([(kind, start)] if start else []), ("adapted", summary)]
    rate = f"{summary['images_per_second']:.1f} images/s"
    mix = "+mix" if summary.get("mix") else ""
    last_line = f"{summary['method']}{mix}, {summary['labelled']} labelled images, {rate}"
    return "\n".join([iou_table(columns, "IoU, target val"), last_line])


def iou_table(columns: Sequence[tuple[str, dict[str, Any]]], title: str = "IoU") -> str:
    """One column of per-class IoU and mIoU in percent per evaluation, under its title.

    The last line names the classes that no label has, as when the values of the labels are of
    another table.
    """
    first = columns[0][1]
    width = max(len(title), *(len(name) for name in first["per_class_iou"]))

    def row(name: str, values: Iterable[float | None]) -> str:
        cells = ("–" if value is None else f"{value:.1f}" for value in values)
        return f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)

    lines = [f"{title:<{width}}" + "".join(f"{name:>12}" for name, _ in columns)]
    for name in first["per_class_iou"]:
        lines.append(row(name, (scores["per_class_iou"][name] for _, scores in columns)))
    lines.append(row("mIoU", (scores["miou"] for _, scores in columns)))
    if first["reported_classes"] != len(first["per_class_iou"]):
        reported = f"mIoU over {first['reported_classes']}"
        lines.append(row(reported, (scores["reported_miou"] for _, scores in columns)))
    lines += _statistics_lines(columns, row)
    truth = [sum(counts) for counts in first.get("confusion", ())]
    absent = [n for n, pixels in zip(first["per_class_iou"], truth, strict=False) if not pixels]
    if absent:
        lines.append(f"in no label: {', '.join(absent)}")
    return "\n".join(lines)


def _statistics_lines(
    columns: Sequence[tuple[str, dict[str, Any]]], row: Callable[..., str]
) -> list[str]:
    """Rows of mIoU with each kind of running statistics, where a column has both."""
    means = [scores.get("by_statistics") or {} for _, scores in columns]
    lines = []
    for kind in get_args(NormStatistics) if any(means) else ():
        values = [m.get(kind, {}) for m in means]
        lines.append(row(f"mIoU ({kind})", (v.get("miou") for v in values)))
    first = columns[0][1]
    if lines and first["reported_classes"] != len(first["per_class_iou"]):
        for kind in get_args(NormStatistics):
            values = [m.get(kind, {}).get("reported_miou") for m in means]
            lines.append(row(f"… over {first['reported_classes']} ({kind})", values))
    return lines


def statistics_note(means: dict[str, dict[str, float]]) -> str:
    """mIoU with each kind of running statistics, in a few words."""
    return ", ".join(f"{kind} statistics {m['miou']:.2f}" for kind, m in means.items())


def read_summary(run: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The summary of a run that has ended. One that is damaged is noted: it is written again."""
    if not (run / SUMMARY).exists():
        return None
    try:
        summary = read_json(run / SUMMARY)
        table(summary)
    except UserError as error:
        note(f"{error}; it is written again")
        return None
    except (KeyError, TypeError, ValueError, AttributeError):
        note(f"{run / SUMMARY}: damaged: values are missing; it is written again")
        return None
    return summary


def before_and_after(
    run: Path,
    generator: DeepLab,
    data: TrainingData,
    runtime: Runtime,
    init: str | None,
    statistics: NormStatistics = "mixed",
) -> Path:
    """Compare the finished network with the one it started from → the contact sheet's path.

    Writes RUN/contact_sheet.png for a quick look; RUN/examples and RUN/class_means.json for the
    report. init: the checkpoint that all of the network's weights came from, if any. statistics:
    the running statistics that it is used with.
    """
    networks = {"adapted": generator}
    if (before := _before(run, init)) is not None:
        with contextlib.suppress(UserError):  # a run of days must not fail because of a picture
            source_only = _generator_of(before, generator, runtime, statistics)
            networks = {"source only": source_only, **networks}
    path = _examples(run, networks, data, runtime)
    if data.source is not None:
        means = {_FILE[t]: _class_means(n, data, runtime) for t, n in networks.items()}
        text = json.dumps({"images": class_centroids.IMAGES, **means}, indent=2)
        RunDirectory(run).write(CLASS_MEANS, text + "\n")
    return path


def _examples(
    run: Path, networks: dict[str, DeepLab], data: TrainingData, runtime: Runtime
) -> Path:
    rows = []
    for i, (image, truth) in enumerate(data.val_examples(ROWS)):
        labels = {"truth": truth}
        for title, network in networks.items():
            labels[title] = predict(network, image, data.target_size, data.normalize, runtime)
        named = {_FILE.get(title, title): label for title, label in labels.items()}
        with writing(run / EXAMPLES):
            save_example(run / EXAMPLES, i, image[:, :, :3], named, data.classes)
        rows.append(
            [image[:, :, :3], *(colorize(label, data.classes) for label in labels.values())]
        )
    with writing(run / SHEET):
        contact_sheet(rows, ["image", "truth", *networks], run / SHEET, data.classes)
    return run / SHEET


def _class_means(generator: DeepLab, data: TrainingData, runtime: Runtime) -> dict[str, Any]:
    """Source images and target validation images, at training size, without augmentation."""
    d = data.config
    assert data.source is not None
    source, target = (
        class_centroids.class_means(
            generator,
            class_centroids.spread_feed(
                dataset, size, data.normalize, d.workers, on_bad_sample=d.on_bad_sample
            ),
            runtime,
        )
        for dataset, size in ((data.source, d.source_size), (data.val, d.target_size))
    )
    return class_centroids.record(data.classes.names, source, target)


def _before(run: Path, init: str | None) -> Path | None:
    """The checkpoint the method started from: this run's start, or `init`.

    None where there is none, or no longer.
    """
    if (start := target(run, START)) is not None:
        return start
    if init is None or Path(init).suffix:  # a weight file
        return None
    try:
        return find_checkpoint(init)
    except UserError:
        return None


def _generator_of(
    path: Path, like: DeepLab, runtime: Runtime, statistics: NormStatistics
) -> DeepLab:
    """The generator of a checkpoint with a network of the same shape."""
    generator = build_deeplab(like.config).to(runtime.device)
    target = load_generator(generator, path)
    if target is not None and statistics == "domain":
        target.exchange()
    return generator
