"""Export a trained network: ONNX, torch.export, or a folder of plain weights.

    onnx          one file; runs with ONNX Runtime alone
    torch-export  one .pt2 file; `torch.export.load(path).module()` runs it with torch alone
    safetensors   a folder: config.json, model.safetensors, graph.json and a README.md with the
                  lines of plain torch that run it; `fastass.load` reads it too

A model card goes with it: OUT.md beside a file, the first part of a folder's README.md. Each export
is read back and compared with the network before it gets its final name.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fastass.errors import UserError
from fastass.inference.export.folder import FILES, README, write_folder
from fastass.inference.export.model_card import HEADING, model_card
from fastass.inference.export.onnx_file import write_onnx
from fastass.inference.export.torch_file import write_torch
from fastass.inference.segmenter import Segmenter
from fastass.pipelines.file_lock import locked
from fastass.runtime.atomic_write import write_whole, writing

WRITERS: dict[str, Callable[[Segmenter, Path], str]] = {
    "onnx": write_onnx,
    "torch-export": write_torch,
    "safetensors": write_folder,
}
STARTS = {"onnx": b"\x08", "torch-export": b"PK"}  # of a protobuf's first field, of a zip


def export(segmenter: Segmenter, out: Path, form: str, *, overwrite: bool = False) -> str:
    """Write `out`; → a line that says what was checked, and how.

    form: a name of `WRITERS`. Raises UserError if `out` exists (unless `overwrite`) or a package is
    missing; ExportFailure if the exported network computes something else.
    """
    backbone = segmenter.generator.config.backbone
    if segmenter.generator.config.is_foreign and form != "safetensors":
        raise UserError(
            f"{backbone}: {form} is for fastass's own backbones; use --format safetensors, which "
            "fastass.load reads"
        )
    _check_replaceable(out, form, overwrite)
    if form != "safetensors":
        _check_card(card_of(out))
    temporary = out.with_name(f".{out.name}.tmp")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.with_name(f".{out.name}.lock"), f"exporting to {out.name}"):
            _remove(temporary)
            _restore(out)
            _check_replaceable(out, form, overwrite)
            try:
                line = WRITERS[form](segmenter, temporary)
                card = model_card(segmenter, out.name)
                if form == "safetensors":
                    readme = temporary / README
                    readme.write_text(f"{card}\n{readme.read_text('utf-8')}", encoding="utf-8")
                _put(temporary, out)
                if form != "safetensors":
                    write_whole(card_of(out), card)
            finally:
                _remove(temporary)
    return line


def card_of(out: Path) -> Path:
    """Where the model card of an exported file is written."""
    return out.with_name(f"{out.name}.md")


def _check_replaceable(out: Path, form: str, overwrite: bool) -> None:
    """UserError unless `out` is what an earlier export wrote: a file, or a folder of its files."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already; pass --overwrite or choose another --out")
    if out.is_symlink() or not out.exists():
        return
    if form != "safetensors":
        if not out.is_file():
            raise UserError(f"{out}: is a folder, and {form} writes a file; choose another --out")
        with out.open("rb") as file:
            if not file.read(4).startswith(STARTS[form]):
                raise UserError(
                    f"{out}: is no {form} file, so it is not replaced; choose another --out"
                )
        return
    if not out.is_dir():
        raise UserError(f"{out}: is no folder; choose another --out")
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES)
    if others:
        raise UserError(
            f"{out}: holds {others[0]}, which no export writes, so it is not replaced; choose "
            "another --out"
        )


def _check_card(card: Path) -> None:
    """UserError if a file that is no model card is in the card's place."""
    if not card.exists() and not card.is_symlink():
        return
    if not card.is_file() or not card.read_bytes().startswith(HEADING.encode()):
        raise UserError(
            f"{card}: the model card is written there, and it holds something else; move it away, "
            "or choose another --out"
        )


def _put(new: Path, out: Path) -> None:
    """Rename `new` to `out`. Until then the export before it is whole, here or beside it."""
    if not out.is_dir() or out.is_symlink():
        new.replace(out)
        return
    old = out.with_name(f".{out.name}.old")
    _remove(old)
    out.replace(old)
    try:
        new.replace(out)
    except OSError:
        old.replace(out)
        raise
    _remove(old)


def _restore(out: Path) -> None:
    """After a kill between the renames of `_put`: the old export under its own name again."""
    old = out.with_name(f".{out.name}.old")
    if old.is_dir() and not old.is_symlink() and not os.path.lexists(out):
        old.replace(out)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
