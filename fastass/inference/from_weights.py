"""A network from a weight file: what the file implies, and what only its owner knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastass.checkpoint.weight_facts import stated_by
from fastass.config.schema import Config
from fastass.config.text import override
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.weights.files import load_weights
from fastass.models.weights.names import translate
from fastass.pipelines.datasets.classes import CITYSCAPES, SYNTHIA_13, SYNTHIA_16, ClassTable

SUFFIXES = (".pth", ".pt", ".safetensors")
KNOWN_CLASSES = {19: CITYSCAPES.names, 16: SYNTHIA_16, 13: SYNTHIA_13}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What the owner of a weight file says of it; None: what the file implies, or the default.

    target_size: (W,H) at which the network was trained. classes: names by train id.
    """

    backbone: str | None = None
    heads: str | None = None
    aspp_branches: int | None = None
    normalize: str | None = None
    target_size: tuple[int, int] | None = None
    classes: tuple[str, ...] = ()

    def given(self) -> list[str]:
        """The flags of the values that were given."""
        return [f"--{n.replace('_', '-')}" for n, value in vars(self).items() if value]


def is_weight_file(path: Path) -> bool:
    """Whether a path is a file of weights, not a run, a checkpoint or an exported folder."""
    return path.is_file() and path.suffix in SUFFIXES


def network_of(path: Path, owner: WeightFile) -> tuple[Config, ClassTable, Mapping[str, Tensor]]:
    """The configuration of the network in a weight file, its classes and its tensors.

    `data.normalize` and `data.target_size` say how its images are prepared. Raises UserError for
    what neither the file nor its owner says, and where they contradict each other.
    """
    if owner.backbone is None:
        raise UserError(f"{path}: a weight file needs --backbone, e.g. --backbone resnet101")
    tensors = load_weights(path)
    several = "single" if owner.backbone == "vgg16" else "multi"
    whole = ModelConfig(backbone=owner.backbone, heads=several)  # type: ignore[arg-type]
    found = translate(tensors, whole)
    if found is None:
        raise UserError(
            f"{path}: not a ResNet, VGG-16, AdaptSegNet or fastass state dict by its names"
        )
    names = found.tensors
    head = names.get("classifier.branches.0.bias")
    if head is None or head.dim() != 1:
        raise UserError(
            f"{path} ({found.kind}): it has no classifier, so it can't label images; train with "
            "--init first"
        )
    branches = sum(f"classifier.branches.{i}.bias" in names for i in range(4))
    heads = "multi" if any(name.startswith("aux_classifier.") for name in names) else "single"
    stated = stated_by(path)
    facts = {**found.implies, **stated.values}
    implied = {
        "aspp_branches": facts.get("model.aspp_branches", branches),
        "normalize": facts.get("data.normalize"),
        "heads": heads,
    }
    for name, value in implied.items():
        said = getattr(owner, name)
        # One head of a multi-level file may be used alone.
        if said is not None and value is not None and said != value and name != "heads":
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{path} ({found.kind}): made with {flag} {value}, not {said}")
    normalize = owner.normalize or implied["normalize"]
    if normalize is None:
        raise UserError(
            f"{path} ({found.kind}): it does not say how its images are normalised; give "
            "--normalize bgr or --normalize imagenet"
        )
    values = {
        "model.backbone": owner.backbone,
        "model.heads": owner.heads or heads,
        "model.aspp_branches": implied["aspp_branches"],
        "model.num_classes": head.shape[0],
        "data.normalize": normalize,
        "model.align_corners": facts.get("model.align_corners", True),
        "data.target_size": owner.target_size or Config().data.target_size,
    }
    config = override(Config(), values, f"{path}: ")
    return config, _classes(path, owner.classes, stated.classes, config.model.num_classes), tensors


def _classes(path: Path, given: tuple[str, ...], stated: tuple[str, ...], count: int) -> ClassTable:
    if given and stated and given != stated:
        raise UserError(f"{path}: made with --classes {','.join(stated)}; leave --classes out")
    names = given or stated or KNOWN_CLASSES.get(count, ())
    if len(names) != count:
        rest = f", not {len(names)}" if names else "; give their names, --classes NAME,NAME,…"
        raise UserError(f"{path}: its classifier has {count} classes{rest}")
    if set(names) <= set(CITYSCAPES.names):
        colors = tuple(CITYSCAPES.colors[CITYSCAPES.names.index(name)] for name in names)
    else:
        colors = tuple((37 * i % 256, 97 * i % 256, 157 * i % 256) for i in range(1, count + 1))
    return ClassTable("checkpoint", tuple(names), colors, {})
