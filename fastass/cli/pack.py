"""`fastass pack`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.command import Command
from fastass.config.text import parse
from fastass.errors import UserError
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.packed.verify import verify
from fastass.pipelines.process_pool import cores
from fastass.tracking.terminal import reporter


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--root", metavar="DIR", help="the data set as its owners ship it")
    add("--layout", default="auto", help="layout: gta5, synthia, cityscapes, folder or auto (auto)")
    add("--split", default="train", help="split to pack (train)")
    add("--size", metavar="WxH", help="size to pack at, the training size, e.g. 1280x720")
    add("--out", type=Path, metavar="DIR", help="directory for the shards")
    add(
        "--labels",
        choices=("required", "optional"),
        default="required",
        help="whether an image without a label is an error (required)",
    )
    add(
        "--image",
        choices=("jpeg", "png"),
        default="jpeg",
        help="encoding of images; png is lossless and larger (jpeg)",
    )
    add("--quality", type=int, default=95, help="quality of JPEG images, 4:4:4 (95)")
    add(
        "--label",
        choices=("raw", "png"),
        default="raw",
        help="encoding of labels; png is smaller and slower (raw)",
    )
    add("--workers", type=int, help="processes (one per core)")
    add("--records-per-shard", type=int, default=256, help="images per shard (256)")
    add(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help="what to do with a damaged file: stop, or skip it (stop)",
    )
    add("--verify", type=Path, metavar="DIR", help="only check a packed directory for damage")


def run(args: Namespace) -> None:
    if args.verify is not None:
        return _verify(args.verify, args.workers)
    if args.root is None or args.size is None or args.out is None:
        raise UserError("pack needs --root DIR, --size WxH and --out DIR (or --verify DIR)")
    return _pack(args)


def _pack(args: Namespace) -> None:
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
        print(f"bad sample {bad.name}: {bad.reason}")
    print(f"{args.out}: {result.written} packed, {result.kept} kept, {len(result.bad)} bad")
    if result.unseen:
        print(f"{result.unseen} samples were not read any more")
    if not result.complete:
        raise UserError(
            f"{args.out}: not finished: {len(result.bad)} bad samples; repair or remove them, or "
            "pass --on-bad-sample skip, and run the same command again"
        )


def _verify(root: Path, workers: int | None) -> None:
    with reporter() as progress:
        progress.phase("verify", 0)
        result = verify(root, workers or cores(), lambda done, total: progress.advance(done))
    for damage in result.damages:
        print(damage)
    if result.damages:
        raise UserError(f"{root}: {len(result.damages)} damages; pack again to repair them")
    print(f"{root}: sound: {result.shards} shards, {result.records} records")


COMMAND = Command(
    "pack",
    "turn a data set into checksummed shards that decode fast",
    "fastass pack --layout gta5 --root GTA5 --size 1280x720 --out packed/gta5",
    flags,
    run,
)
