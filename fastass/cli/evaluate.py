"""`fastass eval`."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from fastass.cli.command import Command
from fastass.cli.network_flags import execution_flags, load_segmenter, view_flags, views_of
from fastass.cli.parser import typed
from fastass.config.schema import Layout
from fastass.config.values import local_path
from fastass.errors import UserError
from fastass.models.number_range import Range
from fastass.pipelines.errors import printable, printable_lines

if TYPE_CHECKING:
    from fastass.inference.segmenter import Segmenter

NORM_IMAGES, NORM_BATCH = 64, 4
Pixels = Annotated[int, Range(1, 16384)]


def flags(parser: ArgumentParser) -> None:
    execution_flags(parser)
    parser.add_argument("--data", required=True, metavar="DIR", help="data set with labels")
    parser.add_argument(
        "--layout",
        type=typed(Layout),
        default="auto",
        help="layout of the data set; auto recognises it",
    )
    parser.add_argument(
        "--split", help="split to evaluate [default val; everything, if the data set has no splits]"
    )
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="also write the result to this file"
    )
    parser.add_argument(
        "--norm-from",
        metavar="DIR",
        help="compute the running statistics of batch norm anew on the training images of this "
        "data set; for a network that meets a new domain",
    )
    parser.add_argument(
        "--size",
        type=typed(tuple[Pixels, Pixels]),
        metavar="WxH",
        help="size at which the network reads images [default: the training size of the target]",
    )
    view_flags(parser)


def run(args: Namespace) -> None:
    from fastass.checkpoint.files import MIXED_USED
    from fastass.evaluation.evaluate import evaluate_segmenter
    from fastass.runtime.atomic_write import check_replaceable, write_in_turn
    from fastass.tracking.terminal import reporter
    from fastass.training.open_data import open_any
    from fastass.training.summary import iou_table

    if args.json is not None:
        check_replaceable(args.json, '"per_class_iou"', "a result of fastass eval")
    views = views_of(args)
    network = load_segmenter(args)
    data = open_any(args.data, args.layout, args.split or "val", whole=args.split is None)
    size = views.read_at(args.size or network.prepare.size)
    if args.norm_from is not None:
        if args.norm_statistics is not None:
            raise UserError("--norm-statistics has no effect with --norm-from; give one of them")
        _reestimate(args, network, size)
        network = replace(network, other_statistics=None)
    other = network.other_statistics
    alone = network.norm_statistics == "mixed" and other is None
    if alone and args.norm_statistics is None and args.norm_from is None:
        print(printable(f"{args.checkpoint}: {MIXED_USED}"))
    passes = 2 if other is not None and other.differ() else 1
    with reporter() as progress:
        progress.phase("evaluate", passes * len(data))
        done = 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress.advance(done)

        scores = evaluate_segmenter(network, data, views, args.size, advance)
    if args.json is not None:  # first: the output may be closed or its disk full
        write_in_turn(args.json, json.dumps(scores.record(), indent=2) + "\n")
    print(printable_lines(iou_table([(data.split, scores.record())])))


def _reestimate(args: Namespace, network: "Segmenter", size: tuple[int, int]) -> None:
    """Running statistics of about 64 images of the train split; labels are not read."""
    from fastass.evaluation.adabn import reestimate
    from fastass.pipelines.loaders.evaluation import EvalLoader
    from fastass.training.open_data import open_any

    images = open_any(args.norm_from, args.layout, "train", labels="optional")
    world = max(1, len(images) // NORM_IMAGES)
    loader = EvalLoader(
        images, size, network.prepare.normalize, NORM_BATCH, world=world, with_labels=False
    )
    reestimate(network.generator, loader, network.runtime)


COMMAND = Command(
    "eval",
    "compute per-class IoU and mIoU of a trained network",
    "fastass eval runs/a --data data/toycity/cityscapes",
    flags,
    run,
)
