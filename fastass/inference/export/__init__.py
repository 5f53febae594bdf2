"""Export a trained network: ONNX, torch.export, or a folder of plain weights.

    onnx          one file; runs with ONNX Runtime alone
    torch-export  one .pt2 file; `torch.export.load(path).module()` runs it with torch alone
    safetensors   a folder: config.json, model.safetensors, graph.json and a README.md with the
                  lines of plain torch that run it; `fastass.load` reads it too

Each export is read back and compared with the network before it gets its final name.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from fastass.errors import UserError
from fastass.inference.export.folder import FILES, write_folder
from fastass.inference.export.onnx_file import write_onnx
from fastass.inference.export.torch_file import write_torch
from fastass.inference.segmenter import Segmenter
from fastass.pipelines.file_lock import locked
from fastass.runtime.atomic_write import writing

WRITERS: dict[str, Callable[[Segmenter, Path], str]] = {
    "onnx": write_onnx,
    "torch-export": write_torch,
    "safetensors": write_folder,
}


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
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already; pass --overwrite or choose another --out")
    _check_replaceable(out, form)
    temporary = out.with_name(f".{out.name}.tmp")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.with_name(f".{out.name}.lock"), f"exporting to {out.name}"):
            _remove(temporary)
            try:
                line = WRITERS[form](segmenter, temporary)
                _remove(out)
                temporary.replace(out)
            finally:
                _remove(temporary)
    return line


def _check_replaceable(out: Path, form: str) -> None:
    """UserError unless `out` is what an earlier export wrote: a file, or a folder of its files."""
    if out.is_symlink() or not out.exists():
        return
    if form != "safetensors":
        if not out.is_file():
            raise UserError(f"{out}: is a folder, and {form} writes a file; choose another --out")
        return
    if not out.is_dir():
        raise UserError(f"{out}: is no folder; choose another --out")
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES)
    if others:
        raise UserError(
            f"{out}: holds {others[0]}, which no export writes, so it is not replaced; choose "
            "another --out"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
