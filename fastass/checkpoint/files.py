"""Checkpoints that survive a crash at any moment.

RUN/checkpoints/step-00000500/
    model.safetensors   weights of G (`generator.…`), D_g, D_s, and the average and the teacher
    state.pt            step, optimizers, scaler, random state (loads with weights_only=True)
    config.yaml         the configuration
    classes.json        names and colours of the classes
    checksums.json      CRC-32 of each of these files
RUN/last, RUN/best, RUN/start   small files that name such a directory (`pointers`)

A checkpoint is written under a temporary name, synced and renamed; the pointers are replaced
atomically; only then are older checkpoints removed. Whatever fails, `last` stays loadable; should
the disk damage it later, `newest_checkpoint` finds the one before.
"""

import contextlib
import io
import json
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from torch import nn

from fastass.checkpoint.json_file import read_json
from fastass.checkpoint.pointers import (
    BEST,
    CHECKSUMS,
    LAST,
    MODEL,
    POINTERS,
    START,
    STATE,
    checkpoint_path,
    drop,
    follow,
    leftovers,
    list_checkpoints,
    point,
    remove_leftover,
    replaced,
    target,
)
from fastass.checkpoint.weight_facts import serialized
from fastass.errors import UserError
from fastass.models.domain_statistics import TargetStatistics
from fastass.models.weights.files import check_storage, check_zip
from fastass.pipelines.durable import sync_directory, write_synced
from fastass.runtime.atomic_write import writing

TEACHER = "teacher."  # begins the names of the weights of self-training's teacher
MIXED_USED = "without statistics of the target; the mixed are used"  # said of older checkpoints
# A network's prefix → that of its running statistics of the target's streams.
_TARGET_STATISTICS = {
    "generator.": "target_statistics.",
    "average.": "average_target_statistics.",
}


class Checkpoint(NamedTuple):
    """The content of a checkpoint directory, tensors on the CPU."""

    path: Path
    weights: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run: Path,
    step: int,
    weights: dict[str, torch.Tensor],
    state: dict[str, Any],
    texts: dict[str, str],
    links: Sequence[str] = ("last",),
    header: Mapping[str, str] | None = None,
) -> Path:
    """Write the checkpoint of `step`, point `links` to it, remove older ones without a link.

    weights: of the module, on the CPU. texts: file name → content of the small files beside them.
    header: what the weights' file says of itself, see `weight_facts`.

    Raises UserError when the disk refuses; the previous checkpoint then stays unchanged.
    """
    final = checkpoint_path(run, step)
    temporary = final.with_name(f".{final.name}.tmp")
    kept_links = [name for name in POINTERS if target(run, name) == final]
    named = list(dict.fromkeys([*links, *kept_links]))
    buffer = io.BytesIO()
    torch.save({"step": step, "links": named, **state}, buffer)
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    files = {
        MODEL: serialized(contiguous, {"format": "fastass", **(header or {})}),
        STATE: buffer.getvalue(),
        **{name: text.encode() for name, text in texts.items()},
    }
    sums = {name: zlib.crc32(data) for name, data in files.items()}
    try:
        if temporary.exists():
            remove_leftover(temporary)
        temporary.mkdir(parents=True)
        for name, data in {**files, CHECKSUMS: json.dumps(sums).encode()}.items():
            write_synced(temporary / name, data)
        sync_directory(temporary)
        if final.exists():  # this step's, saved before its evaluation or by an interrupted run
            final.rename(_aside(final))
        temporary.rename(final)
        sync_directory(final.parent)
        for name in links:
            point(run, name, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _put_back(run)
        kept = target(run, LAST)
        raise UserError(
            f"{final}: can't save at step {step}: {error.strerror or error}; "
            + (f"kept: {kept}" if kept else "no earlier checkpoint exists")
        ) from error
    _retain(run)
    return final


def _retain(run: Path, recent: int = 2) -> None:
    """Keep the `recent` newest checkpoints and those that are pointed to."""
    for path in replaced(run):
        drop(path)
    named = {target(run, name) for name in POINTERS}
    for path in list_checkpoints(run)[recent:]:
        if path not in named:
            drop(path)
    for path in leftovers(run):
        remove_leftover(path)


def _aside(path: Path) -> Path:
    """Where a checkpoint is while another of its step takes its place."""
    return path.with_name(f"{path.name}~")


def _put_back(run: Path) -> None:
    """Undo a replacement that a kill or the disk stopped half-way."""
    for path in replaced(run):
        final = path.with_name(path.name.removesuffix("~"))
        if final.exists():
            drop(path)
        else:
            with contextlib.suppress(OSError):
                path.rename(final)


def newest_checkpoint(
    run: Path, warn: Callable[[str], None], use: Callable[[Checkpoint], None] | None = None
) -> Checkpoint:
    """The newest checkpoint of a run that can be used; `warn` gets a line for each that can't be.

    use: takes what the checkpoint holds, and raises UserError if that is incomplete. Finishes what
    a kill interrupted in `save_checkpoint`: the pointers, and the removal of old ones.

    Raises UserError when none can be used.
    """
    _put_back(run)
    for path in list_checkpoints(run):
        try:
            saved = read_checkpoint(path)
            if use is not None:
                use(saved)
        except UserError as error:
            warn(f"{error}; falling back to the checkpoint before it")
            continue
        with writing(run):
            for name in dict.fromkeys((LAST, *links_of(saved.state))):
                point(run, name, path)
            _find_lost_pointers(run, path)
        _retain(run)
        return saved
    raise UserError(f"{run}: no checkpoint can be read; start anew with --overwrite")


def links_of(state: dict[str, Any]) -> list[str]:
    """The pointers that a checkpoint was saved for; a name that is none is left out."""
    links = state.get("links", ())
    return [n for n in links if n in POINTERS] if isinstance(links, (list, tuple)) else []


def _find_lost_pointers(run: Path, newest: Path) -> None:
    """Point RUN/best and RUN/start again, where a copy of the run has lost them; links and copied
    directories become small files."""
    for name in POINTERS:
        path, checkpoint = run / name, target(run, name)
        odd = path.is_symlink() or path.is_dir()
        if odd and checkpoint is not None and checkpoint != path:
            point(run, name, checkpoint)
    lost = [name for name in (BEST, START) if target(run, name) is None]
    for path in list_checkpoints(run):
        if lost and path != newest:
            with contextlib.suppress(UserError):
                found = [name for name in links_of(read_state(path)) if name in lost]
                for name in found:
                    point(run, name, path)
                    lost.remove(name)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory. UserError if a file is missing or damaged."""
    return Checkpoint(path, read_weights(path), read_state(path))


def read_state(path: Path) -> dict[str, Any]:
    """Read the saved state, tensors on the CPU. UserError if it is missing or damaged."""
    data = _read(path, STATE)
    check_zip(io.BytesIO(data), path / STATE)
    try:
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path / STATE}: damaged or not safe: {_first_line(error)}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path / STATE}: damaged: it holds a {type(state).__name__}, no state")
    check_storage(state, path / STATE)
    return state


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights, on the CPU. UserError if they are missing or damaged."""
    data = _read(path, MODEL)
    try:
        return safetensors_load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path / MODEL}: damaged: {_first_line(error)}") from None


def _read(path: Path, name: str) -> bytes:
    """Read a file and verify its checksum; the earliest checkpoints had none."""
    try:
        data = (path / name).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: not a checkpoint: {name} is missing") from None
    except OSError as error:
        raise UserError(f"{path / name}: can't be read: {error.strerror or error}") from None
    wanted = read_json(path / CHECKSUMS).get(name) if (path / CHECKSUMS).exists() else None
    if wanted is not None and wanted != zlib.crc32(data):
        raise UserError(f"{path / name}: damaged: its checksum differs from {CHECKSUMS}")
    return data


def load_into(module: nn.Module, weights: dict[str, torch.Tensor], where: Path) -> None:
    """Load weights that must fit exactly. UserError names the first key that does not fit."""
    check_fit(module, weights, where)
    module.load_state_dict(weights)


def check_fit(module: nn.Module, weights: dict[str, torch.Tensor], where: Path) -> None:
    """UserError unless weights have exactly the module's names and shapes; it may be on `meta`."""
    own = module.state_dict()
    saved, needed = (any(k.startswith(TEACHER) for k in keys) for keys in (weights, own))
    if saved and not needed:
        raise UserError(f"{where}: the checkpoint has a teacher, and this run has none; give --mix")
    if needed and not saved:
        raise UserError(
            f"{where}: the checkpoint has no teacher, which --mix needs; leave out --mix, or start "
            f"a new run from these weights with --init {where}"
        )
    for key in [*own, *weights]:
        if key not in weights or key not in own:
            side = "lacks" if key not in weights else "has an unknown"
            raise UserError(f"{where}: checkpoint of another architecture: it {side} {key}")
        if own[key].shape != weights[key].shape:
            raise UserError(
                f"{where}: checkpoint of another architecture: {key} is "
                f"{tuple(weights[key].shape)}, the model has {tuple(own[key].shape)}"
            )


def add_target_statistics(weights: dict[str, torch.Tensor], module: nn.Module) -> bool:
    """Give an older checkpoint the target's running statistics: the mixed ones; → if it had none.

    weights: of a training module; changed in place.
    """
    copies = {
        name: f"{network}{name.removeprefix(statistics)}"
        for name in module.state_dict()
        for network, statistics in _TARGET_STATISTICS.items()
        if name.startswith(statistics)
    }
    if any(name in weights for name in copies):
        return False
    weights |= {name: weights[own].clone() for name, own in copies.items() if own in weights}
    return bool(copies)


def load_generator(generator: nn.Module, path: Path) -> TargetStatistics | None:
    """Load only the generator from a checkpoint directory: its EMA weights, if there are any.

    Its norms then hold the running statistics of all streams. → those of the target's streams;
    None if the checkpoint has none.
    """
    weights, statistics = generator_weights(path)
    load_into(generator, weights, path)
    return target_statistics(generator, statistics, path)


def target_statistics(
    generator: nn.Module, weights: dict[str, torch.Tensor], where: Path
) -> TargetStatistics | None:
    """The target's running statistics of a generator; None for no `weights`."""
    if not weights:
        return None
    statistics = TargetStatistics(generator)
    load_into(statistics, weights, where)
    return statistics


def generator_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The generator's weights in a checkpoint directory: the EMA weights, if there are any.

    Beside them the target's running statistics, empty if the checkpoint has none.
    """
    saved = read_weights(path)
    prefix = "average." if any(name.startswith("average.") for name in saved) else "generator."
    return _below(prefix, saved), _below(_TARGET_STATISTICS[prefix], saved)


def _below(prefix: str, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}


def find_checkpoint(path: Path | str) -> Path:
    """A checkpoint directory from its path or its run's: RUN, RUN/best, RUN/checkpoints/step-…

    A run gives its best checkpoint, its last, or the newest where a copy has lost both pointers.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint or run")
    if path.suffix in (".onnx", ".pt2"):
        raise UserError(
            f"{path}: an export for other programs; fastass reads runs, checkpoints, weight files "
            "and exports of --format safetensors"
        )
    for candidate in (follow(path), target(path, BEST), target(path, LAST)):
        if candidate is not None and (candidate / MODEL).is_file():
            return candidate
    for candidate in list_checkpoints(path)[:1]:
        return candidate
    raise UserError(f"{path}: neither a checkpoint ({MODEL}) nor a run (best, last) is there")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
