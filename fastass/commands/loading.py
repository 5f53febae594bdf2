"""A trained generator from a run or a checkpoint, for the commands that use one."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass import checkpoint
from fastass.config import Config
from fastass.configfile import from_yaml, override
from fastass.errors import UserError
from fastass.execution import Execution, choose
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.pipelines.classes import ClassTable


def execution_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--kernels", default="auto", help="auto, reference, native or triton")
    parser.add_argument("--amp", action="store_true", help="mixed precision")


def load(args: Namespace) -> tuple[Config, DeepLab, Execution]:
    """Configuration and generator of `args.checkpoint`, on the device asked for."""
    path = checkpoint.find(args.checkpoint)
    config = from_yaml(path / checkpoint.CONFIG)
    config = override(config, {"device": args.device, "kernels": args.kernels, "amp": args.amp})
    execution = choose(config)
    generator = build_deeplab(config.model)
    checkpoint.load_generator(generator, path)
    return config, generator.to(execution.device), execution


def trained_classes(path: Path) -> ClassTable:
    """Names and colours of the classes that the checkpoint was trained with."""
    file = checkpoint.find(path) / checkpoint.CLASSES
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return ClassTable(
            "checkpoint", tuple(saved["names"]), tuple(tuple(c) for c in saved["colors"]), {}
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: missing or damaged; the checkpoint is not complete") from None
