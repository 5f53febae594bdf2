"""Trained networks from runs, checkpoints and exported folders.

An exported folder holds config.json (the `description` of the network, its classes and the way its
images are prepared) and model.safetensors (the generator alone).
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastass.checkpoint.files import (
    check_fit,
    find_checkpoint,
    generator_weights,
    load_into,
    read_weights,
    target_statistics,
)
from fastass.checkpoint.json_file import read_json, read_result
from fastass.checkpoint.pointers import CLASSES, CONFIG
from fastass.checkpoint.starting_weights import EXPORTED, MODEL_TYPE, folder_of
from fastass.config.schema import Config, NormStatistics
from fastass.config.text import from_yaml, override
from fastass.errors import UserError
from fastass.inference.from_weights import SUFFIXES, WeightFile, is_weight_file, network_of
from fastass.inference.segmenter import Preparation, Segmenter
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.models.weights.init import init_weights
from fastass.pipelines.datasets.classes import ClassTable
from fastass.runtime.device import setup_runtime


def load(
    path: str | Path,
    *,
    device: str = "auto",
    amp: bool = False,
    kernels: str = "auto",
    tune_allocator: bool = False,
    norm_statistics: NormStatistics | None = None,
    owner: WeightFile | None = None,
    **weight_file: Any,
) -> Segmenter:
    """The trained network of a run, of a checkpoint in it, of an exported folder or a weight file.

    Of a run, the best checkpoint is loaded, or the last one if none was evaluated. tune_allocator:
    change malloc's settings in this process, which makes predictions on a CPU faster.
    norm_statistics: the running statistics of batch norm to use, `mixed` or `domain` (default: as
    the run was configured); a checkpoint without the target's uses the mixed ones. weight_file: for
    a .pth or .safetensors file, the fields of `WeightFile`, such as backbone="resnet101"; or owner
    with all of them. Raises UserError for a path without a network, a damaged file, a missing
    device, and for facts about a weight file that are missing or wrong.
    """
    path = folder_of(Path(path))
    asked = {
        "runtime.device": device,
        "runtime.amp": amp,
        "runtime.kernels": kernels,
        "runtime.tune_allocator": tune_allocator,
    }
    owner = WeightFile(**weight_file) if owner is None else owner
    if is_weight_file(path):
        _check_one_kind(path, norm_statistics, "a weight file")
        config, classes, tensors = network_of(path, owner)
        runtime = setup_runtime(override(config, asked).runtime)
        generator = build_deeplab(config.model)
        init_weights(generator, path, None, tensors)
        prepare = _preparation(config)
        return Segmenter(generator.to(runtime.device), classes, prepare, runtime, origin=path)
    if given := owner.given():
        if not path.is_dir():
            names = f"a weight file is a file that ends in {', '.join(SUFFIXES)}"
            raise UserError(f"{path}: {names if path.exists() else 'no such file'}")
        raise UserError(f"{path}: {given[0]} is for weight files; this network says it itself")
    if (path / EXPORTED).is_file():
        _check_one_kind(path, norm_statistics, "an exported folder")
        return _from_folder(path, asked)
    checkpoint = find_checkpoint(path)
    config = override(from_yaml(checkpoint / CONFIG), asked)
    if norm_statistics is not None and not config.model.has_running_statistics:
        raise UserError(
            f"{path}: --norm-statistics {norm_statistics} has no effect: its network has no "
            "running statistics"
        )
    classes = _classes(checkpoint / CLASSES, config.model.num_classes)
    weights, statistics = generator_weights(checkpoint)
    segmenter = _segmenter(config, weights, checkpoint, classes)
    if not config.model.has_running_statistics:
        return segmenter
    target = target_statistics(segmenter.generator, statistics, checkpoint)
    chosen: NormStatistics = "mixed"
    if target is not None and (norm_statistics or config.norm_statistics) == "domain":
        target.exchange()
        chosen = "domain"
    return replace(segmenter, norm_statistics=chosen, other_statistics=target)


def _check_one_kind(path: Path, asked: NormStatistics | None, what: str) -> None:
    if asked is not None:
        raise UserError(
            f"{path}: {what} has one kind of running statistics; leave out "
            f"--norm-statistics {asked}"
        )


def _segmenter(
    config: Config, weights: dict[str, Tensor], where: Path, classes: ClassTable
) -> Segmenter:
    """The network, built once it is known that the weights fit."""
    with torch.device("meta"):
        check_fit(DeepLab(config.model), weights, where)
    runtime = setup_runtime(config.runtime)
    generator = build_deeplab(config.model)
    load_into(generator, weights, where)
    prepare = _preparation(config)
    return Segmenter(
        generator.to(runtime.device), classes, prepare, runtime, config.data.report, origin=where
    )


def _preparation(config: Config) -> Preparation:
    d, channels = config.data, config.model.channels
    if channels == 3:
        return Preparation(d.target_size, d.normalize)
    how = d.normalization(channels)
    return Preparation(d.target_size, how)


def description(segmenter: Segmenter) -> dict[str, Any]:
    """The content of `config.json` in an exported folder, and the metadata of an exported graph."""
    how = segmenter.prepare.how
    return {
        "model_type": MODEL_TYPE,
        "model": asdict(segmenter.generator.config),
        "classes": [
            {"name": name, "color": list(color)}
            for name, color in zip(segmenter.classes.names, segmenter.classes.colors, strict=True)
        ],
        "report": list(segmenter.report),
        "norm_statistics": segmenter.norm_statistics,
        "preprocessing": {
            "size": list(segmenter.prepare.size),
            "resize": "bicubic with antialiasing, to size (width, height); any size works",
            "normalize": how.name,
            "formula": "(level - mean) * scale, levels 0-255, channels in this order",
            "order": how.order,
            "channels": how.positions,
            "mean": list(how.mean),
            "scale": list(how.scale),
        },
    }


def _from_folder(path: Path, asked: dict[str, Any]) -> Segmenter:
    file = path / EXPORTED
    saved = read_json(file)
    try:
        values = {f"model.{name}": value for name, value in saved["model"].items()}
        values["data.target_size"] = saved["preprocessing"]["size"]
        values["data.normalize"] = saved["preprocessing"]["normalize"]
        values["data.report"] = saved["report"]
        values["data.extra_mean"] = saved["preprocessing"]["mean"][3:]
        values["data.extra_std"] = [1 / scale for scale in saved["preprocessing"]["scale"][3:]]
        config = override(Config(), {**values, **asked}, f"{file}: ")
        names = [entry["name"] for entry in saved["classes"]]
        colors = [entry["color"] for entry in saved["classes"]]
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise UserError(f"{file}: not the config.json of an exported folder, or damaged") from None
    classes = _table(file, names, colors, config.model.num_classes)
    return _segmenter(config, read_weights(path), path, classes)


def _classes(file: Path, count: int) -> ClassTable:
    """Names and colours of the classes that the checkpoint was trained with."""
    saved = read_result(file, ("names", "colors"))
    return _table(file, saved["names"], saved["colors"], count)


def _table(file: Path, names: Any, colors: Any, count: int) -> ClassTable:
    """A table of `count` classes. UserError for anything that is none."""
    try:
        right = len(names) == len(colors) == count and all(isinstance(n, str) for n in names)
        for color in colors:
            right = right and len(color) == 3 and all(v in range(256) for v in color)
    except TypeError:
        right = False
    if not right:
        raise UserError(f"{file}: damaged: it needs the names and colours of {count} classes")
    table = tuple((int(r), int(g), int(b)) for r, g, b in colors)
    return ClassTable("checkpoint", tuple(names), table, {})
