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
    add("--layout", default="auto", help="gta5, synthia, cityscapes, folder or auto")
    add("--split", default="train", help="split of the data set (train)")
    add("--size", metavar="WxH", help="training size, e.g. 1280x720")
    add("--out", type=Path, metavar="DIR", help="where the shards are written")
    add("--labels", choices=("required", "optional"), default="required")
    add("--image", choices=("jpeg", "png"), default="jpeg", help="image encoding (jpeg)")
    add("--quality", type=int, default=95, help="of JPEG, 4:4:4 (95)")
    add("--label", choices=("raw", "png"), default="raw", help="label encoding (raw)")
    add("--workers", type=int, help="processes (one a core)")
    add("--records-per-shard", type=int, default=256, help="(256)")
    add("--on-bad-sample", choices=("stop", "skip"), default="stop", help="(stop)")
    add("--verify", type=Path, metavar="DIR", help="check a packed directory instead")


def run(args: Namespace) -> None:
    if args.verify is not None:
        return _verify(args.verify, args.workers)
    if args.root is None or args.size is None or args.out is None:
        raise UserError("pack needs --root DIR, --size WxH and --out DIR (or --verify DIR)")
    return _pack(args)


def _pack(args: Namespace) -> None:
    data = open_dataset(args.root, args.layout, args.split, args.labels)
    width, height = parse(args.size, tuple[int, int], "--size")
    with reporter() as report:
        report.phase("pack", len(data))
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
            progress=lambda done, total: report.advance(done),
        )
    for bad in result.bad:
        print(f"bad sample {bad.name}: {bad.reason}")
    print(f"{args.out}: {result.written} packed, {result.kept} kept, {len(result.bad)} bad")
    if result.unseen:
        print(f"{result.unseen} samples were not looked at any more")
    if not result.complete:
        raise UserError(
            f"{args.out}: not finished: {len(result.bad)} bad samples; mend or remove them, or "
            "pass --on-bad-sample skip, and run the same command again"
        )


def _verify(root: Path, workers: int | None) -> None:
    with reporter() as report:
        report.phase("verify", 0)
        result = verify(root, workers or cores(), lambda done, total: report.advance(done))
    for damage in result.damages:
        print(damage)
    if result.damages:
        raise UserError(f"{root}: {len(result.damages)} damages; pack again to mend them")
    print(f"{root}: sound: {result.shards} shards, {result.records} records")


COMMAND = Command(
    "pack",
    "turn a data set into checksummed shards that decode fast",
    "fastass pack --layout gta5 --root GTA5 --size 1280x720 --out packed/gta5",
    flags,
    run,
)
