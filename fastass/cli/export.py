"""`fastass export`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.command import Command
from fastass.inference.export import FORMATS, export
from fastass.inference.load import load


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="a run, a checkpoint in it, or an exported "
        "folder")  # fmt: skip
    add("--format", required=True, choices=FORMATS,
        help="onnx: one file for ONNX Runtime; torch-export: one .pt2 file for torch; safetensors: "
        "a folder of weights, configuration and the lines that run it")  # fmt: skip
    add("--out", type=Path, required=True, metavar="PATH", help="file, or folder of safetensors")
    add("--overwrite", action="store_true", help="replace what is there")


def run(args: Namespace) -> None:
    segmenter = load(args.checkpoint, device="cpu")
    line = export(segmenter, args.out, args.format, overwrite=args.overwrite)
    width, height = segmenter.prepare.size
    print(f"{args.out}: {len(segmenter.classes)} classes, trained at {width}x{height}")
    print(line)


COMMAND = Command(
    "export",
    "a trained network as ONNX, torch.export or a folder of safetensors, checked",
    "fastass export runs/a --format onnx --out model.onnx",
    flags,
    run,
)
