"""What a weight file of fastass says of itself, in its header.

A file that is copied away from its run, or from its exported folder, still says how its images were
normalised and what its classes are. Its weights load under other settings too, and then compute
something else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from fastass.config.schema import Config
from fastass.config.text import override, value_at
from fastass.config.values import written
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.weights.files import find_weight_file, read_header

CHECKED = ("data.normalize", "model.aspp_branches", "model.align_corners")
CLASSES = "classes"


class WeightFacts(NamedTuple):
    """values: of `CHECKED`, by dotted path; classes: names by train id. Both may be empty."""

    values: dict[str, Any]
    classes: tuple[str, ...]


def header(model: ModelConfig, normalize: str, classes: Sequence[str]) -> dict[str, str]:
    """The header of a network's weights."""
    facts = (normalize, model.aspp_branches, model.align_corners)
    texts = {name: written(value) for name, value in zip(CHECKED, facts, strict=True)}
    return {**texts, CLASSES: json.dumps(list(classes))}


def serialized(tensors: dict[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file. The same content gives the same bytes.

    The library writes the texts of a header in another order each time.
    """
    data = save(tensors)
    start = 8 + int.from_bytes(data[:8], "little")
    tree = {"__metadata__": dict(header), **json.loads(data[8:start])}
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[start:]


def stated_by(path: Path) -> WeightFacts:
    """What the header of a weight file says; nothing where it has none.

    Raises UserError for a value that fastass does not write.
    """
    stated = read_header(find_weight_file(path))
    texts = {name: stated[name] for name in CHECKED if name in stated}
    config = override(Config(), texts, f"{path}: ")
    try:
        classes = json.loads(stated.get(CLASSES, "[]"))
        known = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    except (ValueError, RecursionError):
        known = False
    if not known:
        raise UserError(f"{path}: its header's {CLASSES!r} is no list of names; it is damaged")
    return WeightFacts({name: value_at(config, name) for name in texts}, tuple(classes))
