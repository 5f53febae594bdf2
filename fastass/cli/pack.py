"""`fastass pack`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Annotated

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.schema import Count, Layout
from fastass.config.text import parse
from fastass.config.values import local_path, output_folder
from fastass.errors import UserError
from fastass.models.number_range import Range
from fastass.pipelines.errors import DataError, printable


def flags(parser: ArgumentParser) -> None:
    required = parser.add_argument_group("required, unless --verify is given").add_argument
    required(
        "--root",
        metavar="DIR",
        help="data set to pack, in the layout of its owners: its folder, a folder of zip archives, "
        "or zip archives separated by commas",
    )
    required(
        "--size",
        metavar="WxH",
        help="size of the packed images and labels: the training size, e.g. 1280x720",
    )
    required(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="directory for the shards; the same command continues an interrupted pack",
    )
    add = parser.add_argument
    add(
        "--layout",
        type=typed(Layout),
        default="auto",
        help="layout of the data set; auto recognises it",
    )
    add(
        "--split",
        default="train",
        help="split to pack, e.g. train or val; data without splits are train",
    )
    add(
        "--labels",
        choices=("required", "optional"),
        default="required",
        help="optional also packs images without a label",
    )
    add(
        "--image",
        choices=("jpeg", "png"),
        default="jpeg",
        help="image encoding: jpeg is smaller, png is lossless",
    )
    add(
        "--quality",
        type=typed(Annotated[int, Range(1, 100)]),
        default=95,
        metavar="N",
        help="JPEG quality; chroma is not subsampled",
    )
    add(
        "--label",
        choices=("raw", "png"),
        default="raw",
        help="label encoding: raw needs no decoding, png is smaller",
    )
    add(
        "--workers",
        type=typed(Count),
        metavar="N",
        help="number of processes [default: one per core]",
    )
    add(
        "--records-per-shard",
        type=typed(Count),
        default=256,
        metavar="N",
        help="images per shard",
    )
    add(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help="skip leaves damaged images out and lists them in the manifest",
    )
    add(
        "--verify",
        type=local_path,
        metavar="DIR",
        help="check this packed directory completely instead of packing",
    )


def run(args: Namespace) -> None:
    if args.verify is not None:
        return _verify(args.verify, args.workers)
    if args.root is None or args.size is None or args.out is None:
        raise UserError("pack needs --root DIR, --size WxH and --out DIR (or --verify DIR)")
    return _pack(args)


def _pack(args: Namespace) -> None:
    from fastass.pipelines.datasets.layouts import open_dataset
    from fastass.pipelines.packed.files import read_manifest
    from fastass.pipelines.packed.pack import pack
    from fastass.tracking.terminal import reporter

    data = open_dataset(args.root, args.layout, args.split, args.labels)
    width, height = parse(args.size, tuple[int, int], "--size")
    with reporter() as progress:
        progress.phase("pack", len(data))
        result = pack(
            data,
            args.out,
            (width, height),
            image=args.image,
            label=args.label,
            quality=args.quality,
            workers=args.workers,
            on_bad_sample=args.on_bad_sample,
            records_per_shard=args.records_per_shard,
            progress=lambda done, total: progress.advance(done),
        )
    for bad in result.bad:
        print(printable(f"bad sample {bad.name}: {bad.reason}"))
    print(
        printable(f"{args.out}")
        + f": {result.written} packed, {result.kept} kept, {len(result.bad)} bad"
    )
    if result.unseen:
        print(f"{result.unseen} samples were not tried")
    if not result.complete:
        raise DataError(
            f"{args.out}: not finished: {len(result.bad)} bad samples; repair or remove them, or "
            "pass --on-bad-sample skip, and run the same command again"
        )

    if absent := read_manifest(args.out).absent_classes:
        hint = "; 255 is ignored unless ids lists it" if data.layout == "folder" else ""
        print(printable(f"warning: no pixel of the classes {', '.join(absent)}{hint}"))


def _verify(root: Path, workers: int | None) -> None:
    from fastass.pipelines.packed.verify import verify
    from fastass.pipelines.process_pool import cores
    from fastass.tracking.terminal import reporter

    with reporter() as progress:
        progress.phase("verify", 0)
        result = verify(root, workers or cores(), lambda done, total: progress.advance(done))
    for damage in result.damages:
        print(printable(str(damage)))
    if result.damages:
        raise DataError(
            f"{root}: {len(result.damages)} faults; run the same `fastass pack` command again to "
            "repair them"
        )
    print(printable(f"{root}") + f": sound: {result.shards} shards, {result.records} records")


COMMAND = Command(
    "pack",
    "convert a data set into checksummed shards at training size, which load faster",
    "fastass pack --layout gta5 --root GTA5 --size 1280x720 --out packed/gta5",
    flags,
    run,
)
