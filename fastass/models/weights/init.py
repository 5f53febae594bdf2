"""`--init`: start a DeepLab from published weights, and say exactly what was loaded."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastass.models.deeplab import DeepLab
from fastass.models.weights.files import WeightsError, load_weights
from fastass.models.weights.names import Translation, translate

__all__ = ["InitReport", "WeightsError", "init_weights", "load_weights"]


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What `init_weights` did. `str()` is a few lines for the terminal, grouped by module."""

    path: str
    kind: str
    """The file's format, in words."""
    implies: dict[str, Any]
    """Values of the configuration, by dotted path, that the weights were made with, where the
    format tells. Those of a classifier only if it was loaded."""
    loaded: tuple[str, ...]
    """Parameters and buffers of the model that came from the file."""
    skipped: dict[str, str]
    """Tensors of the file that the model has no place for: name → why."""
    random: dict[str, str]
    """Parameters and buffers left at their random start: name → why."""
    extended: tuple[str, ...] = ()
    """Loaded parameters whose weights for channels after the third are zero."""

    def __str__(self) -> str:
        lines = [f"init from {self.path} ({self.kind})"]
        lines.append(f"  loaded    {len(self.loaded)} tensors: {summary(self.loaded)}")
        if self.extended:
            lines.append(
                f"  extended  {summary(self.extended)}: zero for channels after red, green, blue"
            )
        for title, names in (("skipped", self.skipped), ("random", self.random)):
            for reason in dict.fromkeys(names.values()):
                group = [name for name, why in names.items() if why == reason]
                lines.append(f"  {title:<9} {len(group)} tensors: {summary(group)}: {reason}")
        return "\n".join(lines)


def module_of(name: str) -> str:
    """The module a report groups by and an allowance names: `backbone.layer3`, `classifier`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "backbone" else parts[0]


def summary(names: Iterable[str]) -> str:
    counts = Counter(module_of(name) for name in names)
    return ", ".join(f"{module} {count}" for module, count in counts.items())


def init_weights(
    model: DeepLab,
    path: str | Path,
    allow_mismatch: Sequence[str] | None = (),
    tensors: Mapping[str, Tensor] | None = None,
) -> InitReport:
    """Copy the weights of `path` into `model`; all or nothing.

    tensors: those of `path`, where they were read already.

    Known formats: torchvision's ImageNet ResNets and VGG-16 (heads stay random by nature),
    AdaptSegNet's and its Caffe initialisation's `.pth`, fastass checkpoints.

    A parameter that the file lacks or holds in another shape, and a tensor that the model lacks,
    raise WeightsError, unless `allow_mismatch` names its module: `classifier`, `aux_classifier`,
    `backbone.layer4`, … or `backbone` for all of it. None: nothing may stay random.
    """
    translation = translate(load_weights(path) if tensors is None else tensors, model.config)
    if translation is None:
        raise WeightsError(
            f"{path}: not a ResNet, VGG-16, AdaptSegNet or fastass state dict by its names"
        )
    extended = extend_channels(translation, model)
    loaded, random = match(model, translation, str(path), allow_mismatch)
    own = model.state_dict()
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(translation.tensors[name])
    return InitReport(
        path=str(path),
        kind=translation.kind,
        implies={
            path: value
            for path, value in translation.implies.items()
            if path != "model.aspp_branches" or any(n.startswith("classifier.") for n in loaded)
        },
        loaded=tuple(loaded),
        skipped=translation.skipped,
        random=random,
        extended=extended,
    )


def extend_channels(translation: Translation, model: DeepLab) -> tuple[str, ...]:
    """Weights of images with 3 channels for a model of more: those of the further channels are
    zero, so that the network starts as it was on red, green and blue. → their names."""
    channels, extended = model.config.channels, []
    for name, parameter in model.state_dict().items():
        theirs = translation.tensors.get(name)
        if theirs is None or theirs.ndim != 4 or channels == 3:
            continue
        outputs, inputs, *kernel = theirs.shape
        if inputs == 3 and parameter.shape == (outputs, channels, *kernel):
            more = theirs.new_zeros(outputs, channels - 3, *kernel)
            translation.tensors[name] = torch.cat([theirs, more], 1)
            extended.append(name)
    return tuple(extended)


def match(
    model: DeepLab, translation: Translation, path: str, allow_mismatch: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """(names to load, names left at random → why). Moves unknown tensors to `skipped`."""
    own = model.state_dict()
    theirs = translation.tensors
    allowances = allow_mismatch or ()
    check_allowances(allowances, own.keys() | theirs.keys())

    def allowed(name: str) -> bool:
        return any(name == entry or name.startswith(f"{entry}.") for entry in allowances)

    loaded: list[str] = []
    random: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name, parameter in own.items():
        if name not in theirs:
            if name.endswith(".num_batches_tracked"):
                continue  # torch before 0.4.1 kept no such counter; zero is right
            natural = name.startswith(translation.random)
            target = random if natural or allowed(name) else problems
            target[name] = "not in files of this kind" if natural else "not in the file"
        elif theirs[name].shape != parameter.shape:
            shapes = f"{list(theirs[name].shape)} in the file, {list(parameter.shape)} in the model"
            (random if allowed(name) else problems)[name] = shapes
        else:
            loaded.append(name)
    for name in theirs.keys() - own.keys():
        target = translation.skipped if allowed(name) else problems
        target[name] = "not in the model"
    if problems:
        where = f"{path} ({translation.kind})"
        raise WeightsError(describe(problems, where, model, allow_mismatch is not None))
    return loaded, random


def check_allowances(allow_mismatch: Sequence[str], names: Iterable[str]) -> None:
    known = {".".join(parts[:n]) for parts in (s.split(".") for s in names) for n in range(1, 9)}
    for entry in allow_mismatch:
        if entry not in known:
            modules = ", ".join(sorted({module_of(name) for name in names}))
            raise WeightsError(f"allow_mismatch: no module {entry!r}; there are {modules}")


def describe(problems: dict[str, str], where: str, model: DeepLab, allowable: bool) -> str:
    """One line: a problem of each of the first modules, and the remedy.

    allowable: an allowance could accept them all.
    """
    first: dict[str, str] = {}
    for name in sorted(problems):
        first.setdefault(module_of(name), f"{name} {problems[name]}")
    examples = list(first.values())
    more = f" (and {len(examples) - 3} more modules)" if len(examples) > 3 else ""
    config = model.config
    remedy = (
        f"to leave them at random, allow {','.join(first)}"
        if allowable
        else "give the --backbone and the --heads that the file was made with"
    )
    return (
        f"{where} does not fit {config.backbone}, heads={config.heads}, "
        f"num_classes={config.num_classes}: {len(problems)} tensors differ: "
        f"{'; '.join(examples[:3])}{more}; {remedy}"
    )
