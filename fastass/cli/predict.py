"""`fastass predict`."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastass.cli.command import Command
from fastass.cli.network_flags import execution_flags, load_segmenter, view_flags, views_of
from fastass.cli.parser import typed
from fastass.config.schema import Size
from fastass.config.values import local_path, output_folder
from fastass.errors import Incomplete
from fastass.inference.formats import MEASURED_IMAGES, PREDICTION_FORMATS
from fastass.models.number_range import Range
from fastass.pipelines.errors import printable

if TYPE_CHECKING:
    from fastass.inference.predict import Outcome

Pixels = Annotated[int, Range(1, 16384)]


def flags(parser: ArgumentParser) -> None:
    execution_flags(parser)
    add = parser.add_argument
    add(
        "images",
        type=local_path,
        nargs="+",
        metavar="IMAGES",
        help="images, folders of images, or videos",
    )
    add("--out", type=output_folder, required=True, metavar="DIR", help="directory for the results")
    add(
        "--format",
        default="trainIds,overlay",
        metavar="F,F",
        help=f"formats to write: {', '.join(PREDICTION_FORMATS)}; the Cityscapes server "
        "takes labelIds",
    )
    view_flags(parser)
    add(
        "--size",
        type=typed(tuple[Pixels, Pixels]),
        metavar="WxH",
        help="resize images to this size first [default: the training size; with --tile "
        "their own size]",
    )
    add(
        "--tile",
        type=typed(Size),
        metavar="WxH",
        help="split large images into tiles of this size",
    )
    add(
        "--overlap",
        type=typed(Annotated[int, Range(0)]),
        default=0,
        metavar="N",
        help="pixels by which tiles overlap",
    )
    add(
        "--on-bad-sample",
        default="stop",
        choices=("stop", "skip"),
        help="what to do with a damaged image: stop, or skip it and end with exit code 1",
    )
    add(
        "--resume",
        action="store_true",
        help="leave out images whose results are already there, made by the same network",
    )
    add(
        "--fps",
        action="store_true",
        help=f"measure images/s of each stage over at least {MEASURED_IMAGES} images",
    )


def run(args: Namespace) -> None:
    from fastass.inference.frames import Inputs
    from fastass.inference.predict import predict_files
    from fastass.inference.stage_timer import WARM_UP, StageClock
    from fastass.inference.writer import Writer, digest, parse_formats, results_of, settings_of
    from fastass.tracking.terminal import reporter

    formats = parse_formats(args.format)
    views = views_of(args)
    inputs = Inputs(args.images)
    total = inputs.count()
    if others := inputs.left_out():
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        print(
            printable(f"left out: {others[0]}{more}")
            + ": no format of images that fastass reads; a video needs its own path"
        )
    segmenter = load_segmenter(args)
    clock = StageClock(segmenter.runtime.device) if args.fps else None
    settings = settings_of(segmenter, views, args.size)
    write = Writer(args.out, formats, segmenter.classes, inputs.files(), digest(settings))
    with (
        reporter() as progress,
        results_of(args.out, settings, args.resume),
    ):
        progress.phase("predict", total if clock is None else max(total, WARM_UP + MEASURED_IMAGES))
        outcome = predict_files(
            segmenter, inputs, write, views, args.size, clock, progress.advance,
            on_bad_sample=args.on_bad_sample, resume=args.resume,
        )  # fmt: skip
    _tell(outcome, args.out, formats)
    if clock is not None and clock.images > 0:
        print(clock.report())
        print(segmenter.runtime.line)
    if outcome.bad:
        good = outcome.predicted + outcome.kept
        raise Incomplete(
            f"{len(outcome.bad)} damaged files, see above; {good} images have a result"
        )


def _tell(outcome: "Outcome", out: Path, formats: tuple[str, ...]) -> None:
    for line in outcome.bad:
        print(f"skipped: {line}", file=sys.stderr)
    count = outcome.predicted
    kept = f" ({outcome.kept} more were there already)" if outcome.kept else ""
    deep = "" if any(out.glob(f"*_{formats[0]}.png")) else "**/"
    written = ", ".join(printable(f"{out}/{deep}*_{form}.png") for form in formats)
    print(f"{count} image{'s' if count != 1 else ''}{kept}: {written}")


COMMAND = Command(
    "predict",
    "label images, folders and videos: train ids, overlays or Cityscapes submissions",
    "fastass predict runs/a photo.jpg --out predictions",
    flags,
    run,
)
