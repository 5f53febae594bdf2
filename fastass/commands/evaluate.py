"""`fastass eval`."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.commands.command import Command
from fastass.commands.loading import execution_flags, load
from fastass.data import open_any
from fastass.errors import UserError
from fastass.evaluation import evaluate
from fastass.pipelines.evaluation import EvalFeed
from fastass.progress import reporter
from fastass.results import iou_table


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run or a checkpoint in it")
    parser.add_argument("--data", required=True, metavar="DIR", help="data set with labels")
    parser.add_argument("--layout", default="auto", help="gta5, synthia, cityscapes, folder, auto")
    parser.add_argument("--split", default="val", help="split of the data set (val)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    execution_flags(parser)


def run(args: Namespace) -> None:
    config, generator, execution = load(args)
    data = open_any(args.data, args.layout, args.split)
    if config.data.classes:
        data = data.with_classes(config.data.classes)
    if len(data.classes) != config.model.num_classes:
        raise UserError(
            f"{args.data}: has {len(data.classes)} classes, the checkpoint "
            f"{config.model.num_classes}"
        )
    d = config.data
    feed = EvalFeed(data, d.target_size, d.normalize, workers=d.workers)
    with reporter() as report:
        report.phase("evaluate", len(data))
        done = 0

        def progress(images: int) -> None:
            nonlocal done
            done += images
            report.advance(done)

        scores = evaluate(generator, feed, execution, data.classes, d.report, progress)
    print(iou_table([(args.split, scores.record())]))
    if args.json is not None:
        args.json.write_text(json.dumps(scores.record(), indent=2) + "\n", encoding="utf-8")


COMMAND = Command(
    "eval",
    "per-class IoU and mIoU of a checkpoint",
    "fastass eval runs/a --data data/toycity/cityscapes",
    flags,
    run,
)
