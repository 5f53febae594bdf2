"""`fastass predict`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.commands.command import Command
from fastass.commands.loading import execution_flags, load, trained_classes
from fastass.predict import predict_files
from fastass.progress import reporter


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run or a checkpoint in it")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="an image or a folder of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    execution_flags(parser)


def run(args: Namespace) -> None:
    config, generator, execution = load(args)
    classes = trained_classes(args.checkpoint)
    d = config.data
    with reporter() as report:
        report.phase("predict", 0)
        count = predict_files(
            generator,
            args.images,
            args.out,
            d.target_size,
            d.normalize,
            classes,
            execution,
            lambda done, total: report.advance(done),
        )
    print(f"{count} images: {args.out}/*_trainIds.png, {args.out}/*_overlay.png")


COMMAND = Command(
    "predict",
    "train-id PNG and colour overlay of images",
    "fastass predict runs/a photo.jpg --out predictions",
    flags,
    run,
)
