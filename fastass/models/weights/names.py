"""From the parameter names of published weight files to those of `DeepLab`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastass.models.config import ModelConfig

# Key prefixes that wrappers leave: DataParallel's, and the Caffe converter's.
PREFIXES = ("module.", "Scale.")
# torchvision's VGG-16 counts pool 4 (index 23), which DeepLab's leaves out: conv5 moves by one.
VGG_CONV5 = {24: 23, 26: 25, 28: 27}
BGR, IMAGENET = {"data.normalize": "bgr"}, {"data.normalize": "imagenet"}
# AdaptSegNet's classifiers have four branches and return inside the loop over them: branches 3 and
# 4 were never trained. Its torch 0.4 knew one corner rule.
ADAPTSEGNET = {**BGR, "model.aspp_branches": 2, "model.align_corners": True}


@dataclass
class Translation:
    """The tensors of a file under `DeepLab`'s names, and what the file's kind implies."""

    kind: str
    """The format, in words."""

    implies: dict[str, Any] = field(default_factory=dict)
    """Values of the configuration, by dotted path, that these weights were made with, where the
    format tells: with other values they load, and compute something else."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By `DeepLab`'s parameter name."""

    skipped: dict[str, str] = field(default_factory=dict)
    """Tensors that no `DeepLab` of this configuration has: name in the file → why."""

    random: tuple[str, ...] = ()
    """Prefixes of parameters that files of this kind never hold."""


def translate(state: Mapping[str, Tensor], config: ModelConfig) -> Translation | None:
    """Recognise the file's format by its names; None if it is none of those known."""
    caffe = any(name.removeprefix("module.").startswith("Scale.") for name in state)
    state = strip_prefixes(state)
    if any(name.startswith("generator.") for name in state):
        return from_fastass(state, config)
    if any(name.startswith("backbone.") for name in state):
        return from_fastass({f"generator.{n}": t for n, t in state.items()}, config)
    if "features.0.weight" in state:
        return from_vgg(state, config)
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return from_resnet(state, config, caffe)
    return None


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop wrappers' prefixes that every name has."""
    names = dict(state)
    changed = True
    while changed:
        changed = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): t for name, t in names.items()}
                changed = True
    return names


def from_fastass(state: Mapping[str, Tensor], config: ModelConfig) -> Translation:
    result = Translation("fastass checkpoint")
    for name, tensor in state.items():
        if name.startswith("generator."):
            add(result, name, name.removeprefix("generator."), tensor, config)
        else:
            result.skipped[name] = "not the generator's"
    return result


def from_resnet(
    state: Mapping[str, Tensor], config: ModelConfig, caffe: bool = False
) -> Translation:
    """torchvision's ResNets and AdaptSegNet's DeepLabs, which share the backbone's names.

    AdaptSegNet calls the heads layer5 and layer6. A file with both is multi-level: layer5 sits on
    stage 3, layer6 on stage 4. In a file with layer5 only, that is the head on stage 4. caffe: the
    names had the prefix of the conversion from Caffe, whose head is not AdaptSegNet's.
    """
    heads = {name.split(".")[0] for name in state} & {"layer5", "layer6"}
    if not heads:
        result = Translation(
            "ImageNet ResNet", dict(IMAGENET), random=("classifier.", "aux_classifier.")
        )
        own = {}
    elif heads == {"layer5", "layer6"}:
        result = Translation("AdaptSegNet, multi-level", dict(ADAPTSEGNET))
        own = {"layer5": "aux_classifier", "layer6": "classifier"}
    else:
        kind = "Caffe" if caffe else "AdaptSegNet"
        result = Translation(f"{kind}, single-level", dict(BGR if caffe else ADAPTSEGNET))
        own = dict.fromkeys(heads, "classifier")
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module in own:
            rest = rest.replace("conv2d_list.", "branches.")
            add(result, name, f"{own[module]}.{rest}", tensor, config)
        elif module == "fc":
            result.skipped[name] = "the ImageNet classifier"
        else:
            add(result, name, f"backbone.{name}", tensor, config)
    return result


def from_vgg(state: Mapping[str, Tensor], config: ModelConfig) -> Translation:
    """torchvision's VGG-16 and AdaptSegNet's DeepLab on it (which holds fc6 as features.29)."""
    imagenet = "features.29.weight" not in state
    if imagenet:
        fresh = ("classifier.", "backbone.features.29.", "backbone.features.31.")
        # The AdaptSegNet baseline starts from a Caffe conversion under the same names, so the file
        # does not tell which normalisation it needs.
        result = Translation("ImageNet VGG-16", random=fresh)
    else:
        result = Translation("AdaptSegNet, VGG-16", dict(ADAPTSEGNET))
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module == "classifier" and imagenet:
            result.skipped[name] = "the ImageNet classifier"
        elif module == "classifier":
            rest = rest.replace("conv2d_list.", "branches.")
            add(result, name, f"classifier.{rest}", tensor, config)
        elif imagenet:
            index, _, leaf = rest.partition(".")
            moved = VGG_CONV5.get(int(index), int(index)) if index.isdigit() else index
            add(result, name, f"backbone.features.{moved}.{leaf}", tensor, config)
        else:
            add(result, name, f"backbone.{name}", tensor, config)
    return result


def add(result: Translation, name: str, own: str, tensor: Tensor, config: ModelConfig) -> None:
    """File `tensor` under its own name, or as skipped where the configuration has no use for it."""
    head, _, rest = own.partition(".")
    if own.endswith(".num_batches_tracked") and config.norm == "frozen":
        result.skipped[name] = "a counter that frozen norm does not keep"
    elif head == "aux_classifier" and config.heads == "single":
        result.skipped[name] = "the second head; heads=single"
    elif (
        head in ("classifier", "aux_classifier")
        and rest.startswith(("branches.2.", "branches.3."))
        and config.aspp_branches == 2
    ):
        result.skipped[name] = "branches 3 and 4; aspp_branches=2"
    else:
        result.tensors[own] = tensor
