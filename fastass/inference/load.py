"""Trained networks from runs, checkpoints and exported folders.

An exported folder holds config.json (the `description` of the network, its classes and the way its
images are prepared) and model.safetensors (the generator alone).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastass.checkpoint.files import (
    CLASSES,
    CONFIG,
    find_checkpoint,
    load_generator,
    load_into,
    read_weights,
)
from fastass.config.schema import Config
from fastass.config.text import from_yaml, override
from fastass.errors import UserError
from fastass.inference.segmenter import Preparation, Segmenter
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.loaders.spec import NORMALIZATIONS
from fastass.runtime.device import Runtime, setup_runtime

FOLDER = "config.json"


def load(
    path: str | Path,
    *,
    device: str = "auto",
    amp: bool = False,
    kernels: str = "auto",
    tune_allocator: bool = False,
) -> Segmenter:
    """The trained network of a run, of a checkpoint in it, or of an exported folder.

    Of a run, the best checkpoint is loaded, or the last one if none was evaluated. tune_allocator:
    change malloc's settings in this process, which makes predictions on a CPU faster. Raises
    UserError for a path without a network, a damaged file, or a missing device.
    """
    asked = {
        "runtime.device": device,
        "runtime.amp": amp,
        "runtime.kernels": kernels,
        "runtime.tune_allocator": tune_allocator,
    }
    if (Path(path) / FOLDER).is_file():
        return _from_folder(Path(path), setup_runtime(override(Config(), asked).runtime))
    checkpoint = find_checkpoint(path)
    config = from_yaml(checkpoint / CONFIG)
    runtime = setup_runtime(override(config, asked).runtime)
    generator = build_deeplab(config.model)
    load_generator(generator, checkpoint)
    return Segmenter(
        generator.to(runtime.device),
        _classes(checkpoint / CLASSES),
        Preparation(config.data.target_size, config.data.normalize),
        runtime,
        config.data.report,
    )


def description(segmenter: Segmenter) -> dict[str, Any]:
    """The content of `config.json` in an exported folder, and the metadata of an exported graph."""
    how = NORMALIZATIONS[segmenter.prepare.normalize]
    return {
        "model_type": "fastass-deeplab-v2",
        "model": asdict(segmenter.generator.config),
        "classes": [
            {"name": name, "color": list(color)}
            for name, color in zip(segmenter.classes.names, segmenter.classes.colors, strict=True)
        ],
        "report": list(segmenter.report),
        "preprocessing": {
            "size": list(segmenter.prepare.size),
            "resize": "bicubic with antialiasing, to size (width, height); any size works",
            "normalize": segmenter.prepare.normalize,
            "formula": "(level - mean) * scale, levels 0-255, channels in this order",
            "order": how.order,
            "channels": ["RGB".index(channel) for channel in how.order],
            "mean": list(how.mean),
            "scale": list(how.scale),
        },
    }


def _from_folder(path: Path, runtime: Runtime) -> Segmenter:
    file = path / FOLDER
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        model = ModelConfig(**saved["model"])
        width, height = saved["preprocessing"]["size"]
        normalize, report = saved["preprocessing"]["normalize"], tuple(saved["report"])
        names = tuple(entry["name"] for entry in saved["classes"])
        colors = tuple(tuple(entry["color"]) for entry in saved["classes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: not the config.json of an exported folder, or damaged") from None
    if len(names) != model.num_classes or normalize not in NORMALIZATIONS:
        raise UserError(f"{file}: its classes or its normalisation do not fit the model")
    generator = build_deeplab(model)
    load_into(generator, read_weights(path), path)
    return Segmenter(
        generator.to(runtime.device),
        ClassTable("checkpoint", names, colors, {}),
        Preparation((width, height), normalize),
        runtime,
        report,
    )


def _classes(file: Path) -> ClassTable:
    """Names and colours of the classes that the checkpoint was trained with."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return ClassTable(
            "checkpoint", tuple(saved["names"]), tuple(tuple(c) for c in saved["colors"]), {}
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: missing or damaged; the checkpoint is not complete") from None
