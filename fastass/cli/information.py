"""`fastass doctor`, `fastass presets` and `fastass info`."""

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import Annotated

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.presets import PRESETS
from fastass.config.schema import Layout
from fastass.config.text import parse
from fastass.errors import Incomplete, UserError
from fastass.models.number_range import Range


def no_flags(parser: ArgumentParser) -> None:
    """These commands have no flags."""


def doctor(args: Namespace) -> None:
    from fastass.cli.doctor import report

    print(report())


def presets(args: Namespace) -> None:
    width = max(map(len, PRESETS))
    wide = max(len(entry.where) for entry in PRESETS.values())
    for name, entry in PRESETS.items():
        reported = f"paper: {entry.miou} mIoU" if entry.miou is not None else ""
        print(f"{name:<{width}}  {entry.where:<{wide}}  {reported}".rstrip())


def info_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="data set: packed by `fastass pack`, or as its owners ship it (folder or zip files)",
    )
    add(
        "--layout",
        default="auto",
        type=typed(Layout),
        help="layout of the data set; auto recognises it",
    )
    add("--split", help="split to count, e.g. val [default: train; a packed set has one split]")
    add(
        "--classes",
        metavar="NAME,NAME",
        help="count only these classes and take all others as ignored, as training with "
        "--data-classes does",
    )
    add(
        "--images",
        action="store_true",
        help="also decode every image, compare its size with its label's, and name the bad ones",
    )
    add(
        "--channels",
        type=typed(Annotated[int, Range(3, 64)]),
        help="channels of the images that --images decodes [default 3]",
    )
    add("--json", action="store_true", help="print JSON instead of a table")


def info(args: Namespace) -> None:
    from fastass.pipelines.class_histograms.histograms import class_histograms
    from fastass.pipelines.class_histograms.statistics import dataset_statistics
    from fastass.pipelines.errors import DataError, printable, printable_lines
    from fastass.pipelines.loaders.check_images import check_images
    from fastass.tracking.progress import Silent
    from fastass.tracking.terminal import reporter
    from fastass.training.open_data import open_any

    if args.channels is not None and not args.images:
        raise UserError("--channels has no effect without --images; give both")
    dataset = open_any(args.data, args.layout, args.split, labels="optional")
    if args.classes is not None:
        dataset = dataset.with_classes(parse(args.classes, tuple[str, ...], "--classes"))

    def note(line: str) -> None:
        print(printable(f"fastass: {line}"), file=sys.stderr)

    with Silent() if args.json else reporter() as progress:
        progress.phase("count classes", len(dataset))
        found = class_histograms(
            dataset, note=note, progress=lambda done, total: progress.advance(done)
        )
        bad_images: dict[int, str] = {}
        if args.images:
            progress.phase("decode images", len(dataset))
            bad_images = check_images(
                dataset,
                args.channels or 3,
                bad_labels=found.bad,
                progress=lambda done, total: progress.advance(done),
            )
    statistics = dataset_statistics(dataset, found)
    if found.bad and not statistics.counted:
        raise DataError(f"no label can be read; the first: {next(iter(found.bad.values()))}")
    if args.json:
        checked = {"bad_images": list(bad_images.values())} if args.images else {}
        print(json.dumps(statistics.tree() | checked, indent=1))
    else:
        print(printable_lines(statistics.text()))
        for reason in found.bad.values():
            print(f"not counted: {reason}")
        for reason in bad_images.values():
            print(f"bad image: {reason}")
    failures = [f"{len(found.bad)} labels can't be read and were not counted"] if found.bad else []
    if bad_images:
        failures.append(f"{len(bad_images)} images are bad")
    if failures:
        raise Incomplete("; ".join(failures))


DOCTOR = Command(
    "doctor",
    "what this machine supports, and why the rest is unavailable",
    "fastass doctor",
    no_flags,
    doctor,
)
PRESETS_COMMAND = Command(
    "presets",
    "list the presets, with the paper's figures",
    "fastass presets",
    no_flags,
    presets,
)
INFO = Command(
    "info",
    "count the pixels and images of every class of a data set",
    "fastass info data/toycity/cityscapes --split val",
    info_flags,
    info,
)
