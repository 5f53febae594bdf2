"""`fastass export`."""

from argparse import ArgumentParser, Namespace

from fastass.cli.command import Command
from fastass.cli.network_flags import (
    network_flags,
    note_missing_statistics,
    statistics_flag,
    weight_file,
)
from fastass.config.values import local_path
from fastass.inference.formats import EXPORT_FORMATS
from fastass.pipelines.errors import printable


def flags(parser: ArgumentParser) -> None:
    network_flags(parser)
    add = parser.add_argument
    add(
        "--format",
        required=True,
        choices=EXPORT_FORMATS,
        help="onnx: one file for ONNX Runtime; torch-export: one .pt2 file for PyTorch; "
        "safetensors: a folder with weights, configuration and example code",
    )
    add(
        "--out",
        type=local_path,
        required=True,
        metavar="PATH",
        help="file to write; for safetensors a folder",
    )
    statistics_flag(parser)
    add("--overwrite", action="store_true", help="replace an existing file or folder")


def run(args: Namespace) -> None:
    from fastass.inference.export import export
    from fastass.inference.load import load

    segmenter = load(
        args.checkpoint,
        device="cpu",
        owner=weight_file(args),
        norm_statistics=args.norm_statistics,
    )
    note_missing_statistics(args, segmenter)
    line = export(segmenter, args.out, args.format, overwrite=args.overwrite)
    width, height = segmenter.prepare.size
    classes = len(segmenter.classes)
    print(printable(f"{args.out}: {classes} classes, trained at {width}x{height}"))
    print(line)


COMMAND = Command(
    "export",
    "export a trained network as ONNX, torch.export or safetensors, and check the result",
    "fastass export runs/a --format onnx --out model.onnx",
    flags,
    run,
)
