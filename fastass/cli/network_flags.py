"""The flags of the commands that use a trained network."""

from argparse import ArgumentParser, Namespace
from dataclasses import fields
from typing import TYPE_CHECKING, Literal, get_args

from fastass.cli.parser import typed
from fastass.config.schema import Normalize, NormStatistics, ScaleFactor, Size
from fastass.config.values import local_path
from fastass.models.config import Backbone, Heads

if TYPE_CHECKING:
    from fastass.inference.from_weights import WeightFile
    from fastass.inference.segmenter import Segmenter
    from fastass.inference.views import Views


def network_flags(parser: ArgumentParser) -> None:
    """The network, and what is to be said of a weight file."""
    parser.add_argument(
        "checkpoint",
        type=local_path,
        metavar="CKPT",
        help="a run, a checkpoint in it, an exported folder, or a weight file (.pth, .safetensors) "
        "with --backbone",
    )
    add = parser.add_argument_group("for a weight file").add_argument
    add("--backbone", choices=get_args(Backbone), help="its backbone")
    add("--heads", choices=get_args(Heads), help="its classifiers (those that are in the file)")
    add(
        "--aspp-branches",
        type=typed(Literal[2, 4]),
        metavar="N",
        help="branches of each classifier, 2 or 4 (2 for AdaptSegNet's files)",
    )
    add(
        "--normalize",
        choices=get_args(Normalize),
        help="how its images are normalised, unless the file says it (bgr for AdaptSegNet's)",
    )
    add(
        "--target-size",
        type=typed(Size),
        metavar="WxH",
        help="size at which it was trained [default 1024x512]",
    )
    add(
        "--classes",
        type=typed(tuple[str, ...]),
        default=(),
        metavar="NAME,NAME",
        help="its classes in order (those of Cityscapes for 19, of SYNTHIA for 16 or 13)",
    )


def execution_flags(parser: ArgumentParser) -> None:
    network_flags(parser)
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: CUDA if there is a GPU")
    add(
        "--kernels",
        default="auto",
        help="implementation of the operators: auto, reference, native or triton",
    )
    add("--amp", action="store_true", help="mixed precision; faster on a GPU")
    statistics_flag(parser)


def statistics_flag(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--norm-statistics",
        choices=get_args(NormStatistics),
        help="running statistics of batch norm: mixed, of all streams; domain, of the target's "
        "streams [default: as the run was configured]",
    )


def view_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scales",
        type=typed(tuple[ScaleFactor, ...]),
        default=(1.0,),
        metavar="S,S",
        help="average predictions over these scales, e.g. 0.75,1,1.25; slower, often better",
    )
    add(
        "--flip",
        action="store_true",
        help="average predictions over the image and its mirror image",
    )


def load_segmenter(args: Namespace) -> "Segmenter":
    """The network of `args.checkpoint` on the device that the flags name."""
    from fastass.inference.load import load

    segmenter = load(
        args.checkpoint,
        device=args.device,
        amp=args.amp,
        kernels=args.kernels,
        tune_allocator=True,
        owner=weight_file(args),
        norm_statistics=args.norm_statistics,
    )
    note_missing_statistics(args, segmenter)
    return segmenter


def note_missing_statistics(args: Namespace, segmenter: "Segmenter") -> None:
    """Say so where the target's running statistics are asked for, and the checkpoint has none."""
    from fastass.checkpoint.files import MIXED_USED
    from fastass.pipelines.errors import printable

    if args.norm_statistics == "domain" != segmenter.norm_statistics:
        print(printable(f"{args.checkpoint}: {MIXED_USED}"))


def weight_file(args: Namespace) -> "WeightFile":
    """What the flags say of a weight file."""
    from fastass.inference.from_weights import WeightFile

    return WeightFile(**{field.name: getattr(args, field.name) for field in fields(WeightFile)})


def views_of(args: Namespace) -> "Views":
    """The views that the flags ask for; tiles only for commands with `--tile`."""
    from fastass.inference.views import Views

    return Views(args.scales, args.flip, getattr(args, "tile", None), getattr(args, "overlap", 0))
