"""Checkpoints that survive a crash at any moment.

RUN/checkpoints/step-00000500/
    model.safetensors   weights of G (`generator.…`), D_g and D_s
    state.pt            step, optimizers, scaler, random state (loads with weights_only=True)
    config.yaml         the configuration
    classes.json        names and colours of the classes
    checksums.json      CRC-32 of each of these files
RUN/last, RUN/best, RUN/start   relative symlinks to such directories

A checkpoint is written under a temporary name, synced and renamed; the links are replaced
atomically; only then are older checkpoints removed. Whatever fails, `last` stays loadable. If the
disk damages it later, `newest_checkpoint` falls back to the one before.
"""

import contextlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import nn

from fastass.errors import UserError
from fastass.pipelines.durable import sync_directory, write_synced
from fastass.runtime.atomic_write import writing

MODEL, STATE, CONFIG, CLASSES = "model.safetensors", "state.pt", "config.yaml", "classes.json"
CHECKSUMS = "checksums.json"


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
) -> Path:
    """Write the checkpoint of `step`, point `links` to it, remove older ones without a link.

    weights: of the module, on the CPU. texts: file name → content of the small files beside them.

    Raises UserError when the disk refuses; the previous checkpoint then stays unchanged.
    """
    final = run / "checkpoints" / f"step-{step:08d}"
    temporary = final.with_name(f".{final.name}.tmp")
    buffer = io.BytesIO()
    torch.save({"step": step, "links": list(links), **state}, buffer)
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    files = {
        MODEL: safetensors_save(contiguous, metadata={"format": "fastass"}),
        STATE: buffer.getvalue(),
        **{name: text.encode() for name, text in texts.items()},
    }
    sums = {name: zlib.crc32(data) for name, data in files.items()}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, data in {**files, CHECKSUMS: json.dumps(sums).encode()}.items():
            write_synced(temporary / name, data)
        sync_directory(temporary)
        if final.exists():  # this step's, saved before its evaluation or by an interrupted run
            final.rename(_aside(final))
        temporary.rename(final)
        sync_directory(final.parent)
        for name in links:
            _point(run / name, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _put_back(run)
        kept = _target(run / "last")
        raise UserError(
            f"{final}: can't save at step {step}: {error.strerror or error}; "
            + (f"kept: {kept}" if kept else "no earlier checkpoint exists")
        ) from error
    _retain(run)
    return final


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
    sync_directory(link.parent)


def _target(link: Path) -> Path | None:
    return link.resolve() if link.exists() else None


def _retain(run: Path, recent: int = 2) -> None:
    """Keep the `recent` newest checkpoints and those that a link points to."""
    for replaced in (run / "checkpoints").glob("step-*~"):
        _drop(replaced)
    linked = {_target(link) for link in run.iterdir() if link.is_symlink()}
    for path in list_checkpoints(run)[recent:]:
        if path.resolve() not in linked:
            _drop(path)
    for leftover in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _drop(path: Path) -> None:
    """Remove a checkpoint; it is never half there under its name."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path.rename(path.with_name(f".{path.name}.tmp")), ignore_errors=True)


def _aside(path: Path) -> Path:
    """The name of a checkpoint while another one of the same step replaces it."""
    return path.with_name(f"{path.name}~")


def _put_back(run: Path) -> None:
    """Undo a replacement that a kill or a disk error interrupted."""
    for path in (run / "checkpoints").glob("step-*~"):
        final = path.with_name(path.name.removesuffix("~"))
        if final.exists():
            _drop(path)
        else:
            with contextlib.suppress(OSError):
                path.rename(final)


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def newest_checkpoint(run: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The newest readable checkpoint of a run; `warn` gets a line for each unreadable one.

    Finishes what a kill interrupted in `save_checkpoint`: the links, and the removal of old ones.

    Raises UserError when none can be read.
    """
    _put_back(run)
    for path in list_checkpoints(run):
        try:
            saved = read_checkpoint(path)
        except UserError as error:
            warn(f"{error}; falling back to the checkpoint before it")
            continue
        with writing(run):
            for name in ("last", *saved.state.get("links", ())):
                _point(run / name, path)
        _retain(run)
        return saved
    raise UserError(f"{run}: no checkpoint can be read; start anew with --overwrite")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory. UserError if a file is missing or damaged."""
    return Checkpoint(path, read_weights(path), read_state(path))


def read_state(path: Path) -> dict[str, Any]:
    """Read the saved state, tensors on the CPU. UserError if it is missing or damaged."""
    data = _read(path, STATE)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path / STATE}: damaged or not safe: {_first_line(error)}") from None
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
        sums = (path / CHECKSUMS).read_bytes() if (path / CHECKSUMS).exists() else b"{}"
        wanted = json.loads(sums).get(name)
    except FileNotFoundError:
        raise UserError(f"{path}: not a checkpoint: {name} is missing") from None
    except OSError as error:
        raise UserError(f"{path / name}: can't be read: {error.strerror or error}") from None
    except (ValueError, AttributeError):
        raise UserError(f"{path / CHECKSUMS}: damaged") from None
    if wanted is not None and wanted != zlib.crc32(data):
        raise UserError(f"{path / name}: damaged: its checksum differs from {CHECKSUMS}")
    return data


def load_into(module: nn.Module, weights: dict[str, torch.Tensor], where: Path) -> None:
    """Load weights that must fit exactly. UserError names the first key that does not fit."""
    own = module.state_dict()
    for key in [*own, *weights]:
        if key not in weights or key not in own:
            side = "lacks" if key not in weights else "has an unknown"
            raise UserError(f"{where}: checkpoint of another architecture: it {side} {key}")
        if own[key].shape != weights[key].shape:
            raise UserError(
                f"{where}: checkpoint of another architecture: {key} is "
                f"{tuple(weights[key].shape)}, the model has {tuple(own[key].shape)}"
            )
    module.load_state_dict(weights)


def load_generator(generator: nn.Module, path: Path) -> None:
    """Load only the generator from a checkpoint directory: its EMA weights, if there are any."""
    saved = read_weights(path)
    prefix = "average." if any(name.startswith("average.") for name in saved) else "generator."
    weights = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    load_into(generator, weights, path)


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint directory of a path: RUN, RUN/best or RUN/checkpoints/step-…"""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint or run")
    for candidate in (path, path / "best", path / "last"):
        if (candidate / MODEL).exists():
            return candidate
    raise UserError(f"{path}: neither a checkpoint ({MODEL}) nor a run (best, last) is there")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
