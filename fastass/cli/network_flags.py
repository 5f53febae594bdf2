"""The flags of the commands that use a trained network."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.parser import typed
from fastass.config.schema import ScaleFactor
from fastass.inference.load import load
from fastass.inference.segmenter import Segmenter
from fastass.inference.views import Views


def execution_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CKPT",
        help="a run, a checkpoint in it, or an exported folder",
    )
    add(
        "--device", default="auto", help="cpu, cuda, cuda:N, or auto: CUDA if there is a GPU (auto)"
    )
    add(
        "--kernels",
        default="auto",
        help="implementation of the operators: auto, reference, native or triton (auto)",
    )
    add("--amp", action="store_true", help="mixed precision; faster on a GPU")


def view_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scales",
        type=typed(tuple[ScaleFactor, ...]),
        default=(1.0,),
        metavar="S,S",
        help="average predictions over these scales, e.g. 0.75,1,1.25; slower, often better (1)",
    )
    add(
        "--flip",
        action="store_true",
        help="average predictions over the image and its mirror image",
    )


def load_segmenter(args: Namespace) -> Segmenter:
    """The network of `args.checkpoint` on the device that the flags name."""
    return load(
        args.checkpoint,
        device=args.device,
        amp=args.amp,
        kernels=args.kernels,
        tune_allocator=True,
    )


def views_of(args: Namespace) -> Views:
    """The views that the flags ask for; tiles only for commands with `--tile`."""
    return Views(args.scales, args.flip, getattr(args, "tile", None), getattr(args, "overlap", 0))
