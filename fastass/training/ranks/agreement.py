"""Whether all ranks start the same run: each one's fingerprint is compared with the others'.

A fingerprint is a name → text. For every name the value of most ranks is the right one (of rank 0,
where as many have another). A rank with another value raises, and the others end quietly.
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastass
from fastass.checkpoint.resume import weights_fingerprint
from fastass.checkpoint.run_directory import versions
from fastass.config.schema import Config
from fastass.config.text import leaves, value_at
from fastass.errors import UserError
from fastass.pipelines.datasets.files import read_file
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.packed.dataset import AnyDataset
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import World
from fastass.training.data import TrainingData

# Values that each rank may have of its own: where its files lie, and what its machine is.
OWN = {
    "data.source",
    "data.target",
    "data.val",
    "data.workers",
    "toycity.directory",
    "labelled_list",
    "init",
    "runtime.device",
    "runtime.tune_allocator",
}
CONTENT = 8  # images per data set whose files are read and compared
SAME_INSTALLATION = "install the same versions on every node"
SAME_COMMAND = "start every rank with the same command and configuration"
SAME_FILES = "give every rank the same files"

Fingerprint = Mapping[str, str]


class Difference(NamedTuple):
    """What one rank has otherwise: the name, its value, and a rank with the right value."""

    name: str
    value: str
    rank: int
    right: str


def difference(fingerprints: Sequence[Fingerprint], rank: int) -> Difference | None:
    """The first name of which `rank` has another value than most; fingerprints: by rank."""
    for name in dict.fromkeys(name for each in fingerprints for name in each):
        values = [each.get(name, "missing") for each in fingerprints]
        counts = Counter(values)
        right = max(counts, key=lambda value: counts[value])  # the lowest rank's, of several
        if values[rank] != right:
            return Difference(name, values[rank], values.index(right), right)
    return None


def check_agreement(world: World, own: Callable[[], Fingerprint], remedy: str) -> None:
    """UserError on a rank whose fingerprint, `own()`, is not that of most; a collective."""
    if world.size == 1:
        return
    found = difference(world.gather(dict(own())), world.rank)
    if found is not None:
        raise UserError(
            f"differs from rank {found.rank}: {found.name} is {found.value} here and "
            f"{found.right} there; {remedy}"
        )
    world.barrier()  # a rank that differs has ended: then nobody goes on


def installation(runtime: Runtime) -> Fingerprint:
    """Versions, fastass's sources, and what this device computes with."""
    return {
        **versions(),
        "the code of fastass": _code(),
        "device type": runtime.device.type,
        "mixed precision": runtime.amp_name,
        "kernels": runtime.kernels,
    }


def _code() -> str:
    """Digest of the sources, for a checkout that was changed on one node."""
    root, digest = Path(fastass.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def settings(config: Config, **more: object) -> Fingerprint:
    """Every value of the configuration that all ranks must share; more: options of the command."""
    shared = {leaf.path: value_at(config, leaf.path) for leaf in leaves() if leaf.path not in OWN}
    return {name: repr(value) for name, value in (shared | more).items()}


def contents(data: TrainingData, inputs: Mapping[str, Any], config: Config) -> Fingerprint:
    """The images of every data set by name, some of them by content, and the weights to start from.

    inputs: as in RUN/inputs.json.
    """
    found = {}
    for name, dataset in (("source", data.source), ("target", data.target), ("val", data.val)):
        if dataset is not None:
            images, names = inputs[name]["images"], inputs[name]["names"][:12]
            found[f"{name} data"] = f"{images} images, names {names}, content {_content(dataset)}"
    labelled = "\n".join(data.labelled_names).encode(errors="surrogateescape")
    found["labelled images"] = f"{len(data.labelled)}, names {zlib.crc32(labelled):08x}"
    found["weights to start from"] = str(weights_fingerprint(config.init).get("crc32", config.init))
    return found


def _content(dataset: AnyDataset) -> str:
    """CRC-32 of some images and labels, or of all digests of a packed directory."""
    if not isinstance(dataset, Dataset):
        return f"{zlib.crc32(repr(dataset.manifest).encode()):08x}"
    crc = 0
    for i in np.unique(np.linspace(0, len(dataset) - 1, CONTENT).astype(int)):
        sample = dataset.samples[i]
        for file in (sample.image, sample.label):
            if file is not None:
                crc = zlib.crc32(read_file(file), crc)
    return f"{crc:08x}"


def check_enough_images(world: World, data: TrainingData) -> None:
    """UserError if a rank would have no validation image."""
    if len(data.val) < world.size:
        raise UserError(
            f"{len(data.val)} validation images for {world.size} ranks: rank {len(data.val)} would "
            "have none; start fewer ranks or give more validation images"
        )
