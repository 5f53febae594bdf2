"""`fastass predict`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Annotated

from fastass.cli.command import Command
from fastass.cli.network_flags import execution_flags, load_segmenter, view_flags, views_of
from fastass.cli.parser import typed
from fastass.config.schema import Size
from fastass.inference import frames
from fastass.inference.predict import FORMATS, MEASURED, Writer, parse_formats, predict_files
from fastass.inference.stage_timer import WARM_UP, StageClock
from fastass.models.number_range import Range
from fastass.tracking.terminal import reporter

Pixels = Annotated[int, Range(1, 16384)]


def flags(parser: ArgumentParser) -> None:
    execution_flags(parser)
    add = parser.add_argument
    add("images", type=Path, metavar="IMAGES", help="an image, a folder of images, or a video")
    add("--out", type=Path, required=True, metavar="DIR", help="directory for the results")
    add(
        "--format",
        default="trainIds,overlay",
        metavar="F,F",
        help=f"formats to write: {', '.join(FORMATS)} (trainIds,overlay); the Cityscapes server "
        "takes labelIds",
    )
    view_flags(parser)
    add(
        "--size",
        type=typed(tuple[Pixels, Pixels]),
        metavar="WxH",
        help="resize images to this size first (the training size; with --tile their own size)",
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
        help="pixels by which tiles overlap (0)",
    )
    add(
        "--fps",
        action="store_true",
        help=f"measure images/s of each stage over at least {MEASURED} images",
    )


def run(args: Namespace) -> None:
    formats = parse_formats(args.format)
    views = views_of(args)
    segmenter = load_segmenter(args)
    clock = StageClock(segmenter.runtime.device) if args.fps else None
    total = frames.count(args.images)
    with reporter() as progress:
        progress.phase("predict", total if clock is None else max(total, WARM_UP + MEASURED))
        write = Writer(args.out, formats, segmenter.classes)
        count = predict_files(
            segmenter, args.images, write, views, args.size, clock, progress.advance
        )
    written = ", ".join(f"{args.out}/*_{form}.png" for form in formats)
    print(f"{count} image{'s' if count != 1 else ''}: {written}")
    if clock is not None:
        print(clock.report())
        print(segmenter.runtime.line)


COMMAND = Command(
    "predict",
    "label images, folders and videos: train ids, overlays or Cityscapes submissions",
    "fastass predict runs/a photo.jpg --out predictions",
    flags,
    run,
)
