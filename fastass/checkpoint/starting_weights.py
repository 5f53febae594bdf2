"""`init`: the weights that a network starts from, and the facts that they imply.

Weights load under wrong settings without an error and then compute something else: another
normalisation, a corner rule, branches that were never trained, classes in another order. What a
file implies is therefore checked, and a contradiction is an error.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastass.checkpoint.files import find_checkpoint
from fastass.checkpoint.pointers import CLASSES, CONFIG, MODEL
from fastass.checkpoint.weight_facts import CHECKED, stated_by
from fastass.config.schema import Config
from fastass.config.text import as_typed, from_yaml, value_at
from fastass.config.values import written
from fastass.errors import UserError
from fastass.models.deeplab import DeepLab
from fastass.models.foreign.choose import pretrained_weights
from fastass.models.weights.imagenet import FILES, imagenet_weights
from fastass.models.weights.init import InitReport, init_weights

FROM_SCRATCH = ("tiny",)  # backbones without published weights
EXPORTED, MODEL_TYPE = "config.json", "fastass-deeplab-v2"  # an exported folder's, and its mark


def check_init(config: Config) -> None:
    """UserError for a run that would start from random weights without having said so."""
    backbone = config.model.backbone
    foreign = config.model.is_foreign
    own, whose = ("pretrained", "its own") if foreign else ("imagenet", "torchvision's")
    if config.init is None and backbone not in FROM_SCRATCH:
        raise UserError(
            f"--init is not given, and {backbone} would start from random weights; give "
            f"--init FILE, --init {own} --data-normalize imagenet ({whose} weights), or --init none"
        )
    if config.init == "imagenet":
        if backbone not in FILES:
            imagenet_weights(backbone)  # which says so
        _compare("torchvision's weights", {"data.normalize": "imagenet"}, config)
    if config.init == "pretrained":
        if not foreign:
            raise UserError(
                f"--init pretrained: for hf: and timm: backbones, not {backbone}; see --init"
            )
        _compare(f"the weights of {backbone}", {"data.normalize": "imagenet"}, config)


def start_from(model: DeepLab, config: Config, classes: Sequence[str]) -> InitReport | None:
    """Load the weights that `config.init` names into `model`; → what was loaded, None for none.

    classes: names by train id. Raises UserError if the weights do not fit the model, or imply
    other settings than the configuration's.
    """
    if config.init is None or config.init == "none":
        return None
    if config.init == "imagenet":
        url, tensors = imagenet_weights(config.model.backbone)
        report = init_weights(model, url, config.allow_mismatch, tensors)
        facts: dict[str, Any] = {**report.implies, "data.normalize": "imagenet"}
    elif config.init == "pretrained":
        name, tensors = pretrained_weights(config.model.backbone)
        heads = [n for n in ("classifier", "aux_classifier") if getattr(model, n) is not None]
        report = init_weights(model, name, (*config.allow_mismatch, *heads), tensors)
        facts = {"data.normalize": "imagenet"}
    else:
        path = weights_path(config.init)
        report = init_weights(model, path, config.allow_mismatch)
        stated = stated_by(path)
        facts = {**report.implies, **stated.values, **implied_by(path)}
        if any(name.startswith("classifier.") for name in report.loaded):
            _compare_classes(path, classes, stated.classes)
        else:
            facts.pop("model.aspp_branches", None)
    _compare(f"{report.path} ({report.kind})", facts, config)
    return report


def weights_path(init: str) -> Path:
    """The checkpoint of a run or of RUN/last; another path as it is."""
    path = folder_of(Path(init))
    if path.suffix in (".pth", ".pt", ".safetensors") or not path.exists():
        return path
    return find_checkpoint(path)


def folder_of(path: Path) -> Path:
    """A checkpoint or an exported folder if `path` is the weights in it, else `path`.

    Such a file is loaded as its folder, which says what its weights need.
    """
    folder = path.parent
    ours = path.name == MODEL and path.is_file()
    return folder if ours and ((folder / CONFIG).is_file() or _is_export(folder)) else path


def _is_export(folder: Path) -> bool:
    """Whether the config.json there is an exported folder's; other tools write such files too."""
    try:
        return MODEL_TYPE in (folder / EXPORTED).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def implied_by(path: Path) -> dict[str, Any]:
    """The facts in the configuration of a checkpoint or an exported folder, by dotted path."""
    if (path / EXPORTED).is_file():
        return _of_export(path / EXPORTED)
    if not (path / CONFIG).is_file():
        return {}
    config = from_yaml(path / CONFIG)
    return {name: value_at(config, name) for name in CHECKED}


def _of_export(file: Path) -> dict[str, Any]:
    """The facts of an exported folder."""
    with _reading(file, "not the config.json of an exported folder, or damaged"):
        saved = json.loads(file.read_text(encoding="utf-8"))
        model, normalize = saved["model"], saved["preprocessing"]["normalize"]
        return {
            "data.normalize": normalize,
            "model.aspp_branches": model["aspp_branches"],
            "model.align_corners": model["align_corners"],
        }


@contextmanager
def _reading(file: Path, damage: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{file}: {damage}") from None


def _compare(where: str, facts: dict[str, Any], config: Config) -> None:
    for name in CHECKED:
        own = value_at(config, name)
        if name in facts and facts[name] != own:
            raise UserError(
                f"{where}: these weights were made with {name} {written(facts[name])}, this "
                f"network has {written(own)}; give {as_typed(name, facts[name])}"
            )


def _compare_classes(path: Path, classes: Sequence[str], stated: Sequence[str]) -> None:
    """stated: the names in the header of the weights."""
    if (path / EXPORTED).is_file():
        with _reading(path / EXPORTED, "damaged; the exported folder is not complete"):
            saved = json.loads((path / EXPORTED).read_text(encoding="utf-8"))
            names = [entry["name"] for entry in saved["classes"]]
    elif (path / CLASSES).is_file():
        with _reading(path / CLASSES, "damaged; the checkpoint is not complete"):
            names = list(json.loads((path / CLASSES).read_text(encoding="utf-8"))["names"])
    elif stated:
        names = list(stated)
    else:
        return
    if names != list(classes):
        other = next((a for a, b in zip(names, classes, strict=False) if a != b), len(names))
        raise UserError(
            f"{path}: its classifier has other classes than the data, or in another order (first: "
            f"{other}); give --data-classes"
        )
