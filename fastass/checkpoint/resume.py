"""Resuming a run: with what it may go on, and what must be as it was."""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastass.checkpoint.fingerprint import check_fingerprint
from fastass.checkpoint.json_file import read_json
from fastass.checkpoint.own_files import CONFIG, INPUTS, LABELLED, read_labelled
from fastass.checkpoint.starting_weights import weights_path
from fastass.config.schema import AUTO, NAMED_WEIGHTS, Config
from fastass.config.text import DERIVED, as_typed, from_yaml, leaves, value_at
from fastass.errors import UserError
from fastass.models.weights.files import find_weight_file
from fastass.pipelines.datasets.files import paths_of
from fastass.pipelines.errors import printable

ROOTS = ("source", "target", "val")
# What may differ when a run is resumed: where and how fast it runs, not what it computes.
# The global batch may be split differently; its size may not change.
FREE = {
    "runtime.device",
    "runtime.kernels",
    "runtime.compile",
    "runtime.compile_mode",
    "runtime.cuda_graph",
    "runtime.cudnn_benchmark",
    "runtime.fused_batch_norm",
    "runtime.fused_convolutions",
    "runtime.tune_allocator",
    "backward",
    "model.checkpoint_activations",
    "model.recompute_sums",
    "eval_every",
    "save_every",
    "log_every",
    "log",
    "save_in_background",
    "data.workers",
    "data.on_bad_sample",  # a run that stopped at a damaged file goes on without it
    "batch",
    "accumulate",
    "distributed.world",
    "distributed.timeout",
    # Where the data lies: its content is compared by fingerprint.
    *(f"data.{name}" for name in ROOTS),
    "toycity.directory",
    "labelled_list",
    "init",
}


def fit_ranks(path: Path, config: Config) -> Config:
    """`config` with the batch size that keeps the run's global batch on another number of ranks.

    If batch or accumulation differ from the run's, they stay as given; the batch `auto` is the
    run's.
    """
    saved = from_yaml(path / CONFIG)
    given = (config.batch, config.accumulate) != (saved.batch, saved.accumulate)
    if given and config.batch != AUTO:
        return config
    batch, rest = divmod(saved.global_batch, config.accumulate * config.distributed.world)
    if rest or not batch:
        raise UserError(
            f"{path}: can't resume on {config.distributed.world} ranks: the run's global batch of "
            f"{saved.global_batch} does not divide; give --batch and --accumulate, or other ranks"
        )
    return replace(config, batch=batch)


def adopt_roots(path: Path, config: Config) -> Config:
    """`config` with the run's data roots where none are given, so that nothing is generated anew.

    The names in LABELLED take the place of a list that is no longer there. UserError if a root of
    the run is not there any more.
    """
    saved = from_yaml(path / CONFIG)
    values: dict[str, Any] = {}
    for name in ROOTS:
        root = getattr(saved.data, name)
        if getattr(config.data, name) in (None, root):
            values[name] = root
            if root is not None and not all(part.exists() for part in paths_of(root)):
                raise UserError(
                    f"{path}: the run's {name} data {root} is not there; give --data-{name} DIR "
                    "with the same images"
                )
    config = replace(config, data=replace(config.data, **values))
    if config.labelled_list is not None and not Path(config.labelled_list).is_file():
        config = replace(config, labelled_list=str(path / LABELLED))
    return config


def with_absolute_paths(config: Config) -> Config:
    """`config` with the paths that it names made absolute: it is resumed from any directory."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or "://" in path else os.path.abspath(path)

    def all_absolute(root: str | None) -> str | None:  # a folder, or archives
        return root and ",".join(absolute(str(part)) or "" for part in paths_of(root))

    roots: dict[str, Any] = {name: all_absolute(getattr(config.data, name)) for name in ROOTS}
    data = replace(config.data, **roots)
    init = config.init if config.init in (None, *NAMED_WEIGHTS) else absolute(config.init)
    return replace(config, data=data, init=init, labelled_list=absolute(config.labelled_list))


def weights_fingerprint(init: str | None) -> dict[str, Any]:
    """CRC-32 of the file that a run starts from; {} for none, or where it is not there."""
    if init is None or init in NAMED_WEIGHTS:
        return {}
    try:
        return {"crc32": zlib.crc32(find_weight_file(weights_path(init)).read_bytes())}
    except (UserError, OSError):
        return {}


def check_same(
    path: Path,
    config: Config,
    labelled: Sequence[str],
    inputs: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    note: Callable[[str], None],
) -> None:
    """UserError if a run can't be resumed with this configuration and these images.

    inputs: fingerprints as in RUN/inputs.json; runs of earlier versions have none. names: of the
    images of each data set. note: gets a line if single files have changed, and if the saved
    configuration has names of an earlier version.
    """
    saved = from_yaml(path / CONFIG, note)
    if saved.global_batch != config.global_batch:
        d = config.distributed
        raise UserError(
            f"{path}: can't resume with a global batch of {config.global_batch} = --batch "
            f"{config.batch} × --accumulate {config.accumulate} × {d.world} ranks; the run has "
            f"{saved.global_batch}"
        )
    for leaf in sorted(leaves(), key=lambda leaf: leaf.path in DERIVED):  # which follow from others
        if leaf.path in FREE:
            continue
        if leaf.path == "optim.base_batch" and not config.optim.scales:
            continue  # nothing depends on it
        old, new = value_at(saved, leaf.path), value_at(config, leaf.path)
        if old != new:
            # The flag may be missing: a preset can have changed, in more than this value.
            give = "" if leaf.path in DERIVED else f"give {as_typed(leaf.path, old)}, or "
            raise UserError(
                f"{path}: can't resume with {leaf.path} = {new!r}, the run has {old!r}; "
                f"{give}take all settings of the run (fastass train --out {path} --resume), or "
                "choose another --out"
            )
    _check_init(path, saved.init, config.init)
    _check_inputs(path, labelled, inputs, names, note)


def _check_inputs(
    path: Path,
    labelled: Sequence[str],
    inputs: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    note: Callable[[str], None],
) -> None:
    if read_labelled(path) != [printable(name) for name in labelled]:
        raise UserError(
            f"{path}: can't resume: the labelled images are not those of {LABELLED}; "
            "the target data has changed"
        )
    if not (path / INPUTS).exists():
        return
    saved = read_json(path / INPUTS)
    for name in ROOTS:
        if name in saved:
            check_fingerprint(
                path, name, saved[name], inputs.get(name, {}), names.get(name, ()), note
            )


def _check_init(path: Path, old: str | None, new: str | None) -> None:
    """Other weights to start from, unless the file was only moved."""

    def place(init: str | None) -> str | None:
        return init if init in (None, *NAMED_WEIGHTS) else os.path.abspath(init)

    if place(old) == place(new):
        return
    saved = read_json(path / INPUTS).get("init") if (path / INPUTS).exists() else None
    if not saved or weights_fingerprint(new) != saved:
        raise UserError(
            f"{path}: can't resume with init = {new!r}, the run has {old!r}; drop --init or choose "
            "another --out"
        )
