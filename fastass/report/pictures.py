"""The example images of a run as data URIs, with error maps."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fastass.checkpoint.own_files import EXAMPLES, SHEET
from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.image_file import open_header
from fastass.pipelines.errors import one_line
from fastass.report.run_record import RunRecord

WRONG = (193, 39, 0)  # darker than the faint photograph, also when printed in grey
NETWORKS = {"start": "before adaptation", "last": "after adaptation"}


@dataclass(frozen=True)
class Prediction:
    """Of one network: labels and errors as data URIs; right: pixel accuracy in percent."""

    words: str
    labels: str
    errors: str
    right: float


@dataclass(frozen=True)
class Example:
    """One validation image with its truth, as data URIs. size: (W,H)."""

    number: int
    size: tuple[int, int]
    image: str
    truth: str
    predictions: list[Prediction]


def examples(run: RunRecord) -> list[Example]:
    """The readable examples of a run; the run gets a note for each unreadable one."""
    readable: list[Example] = []
    for path in sorted((run.path / EXAMPLES).glob("*.jpg"), key=lambda p: (len(p.name), p.name)):
        try:
            readable.append(_example(path, len(readable) + 1))
        except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
            reason = one_line(error)
            run.notes.append(f"{path}: example left out: {reason}")
    return readable


def _example(path: Path, number: int) -> Example:
    photo = np.asarray(_open(path).convert("RGB"))
    truth = path.with_name(f"{path.stem}-truth.png")
    predictions = []
    for name, words in NETWORKS.items():
        file = path.with_name(f"{path.stem}-{name}.png")
        if name == "last" or file.exists():
            errors, right = _errors(photo, _train_ids(truth), _train_ids(file))
            predictions.append(Prediction(words, uri(file), errors, right))
    size = (photo.shape[1], photo.shape[0])
    return Example(number, size, uri(path), uri(truth), predictions)


def _open(path: Path) -> Image.Image:
    """An image that is no larger than fastass permits. Raises OSError or ValueError."""
    return open_header(path.read_bytes(), str(path))


def _train_ids(path: Path) -> np.ndarray:
    picture = _open(path)
    if picture.mode != "P":
        raise ValueError(f"{path.name} is not a palette image of train ids")
    return np.asarray(picture)


def _errors(photo: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> tuple[str, float]:
    """A faint grey photograph with wrong pixels red and unlabelled ones hatched; → and accuracy."""
    if not photo.shape[:2] == truth.shape == labels.shape:
        raise ValueError("image, truth and prediction differ in size")
    grey = 150 + (photo.mean(axis=2, keepdims=True) * 0.41).astype(np.uint8)
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    ignored = truth == IGNORE
    diagonals = np.add.outer(np.arange(truth.shape[0]), np.arange(truth.shape[1])) % 8
    picture[ignored] = np.where(diagonals < 2, 90, 205)[ignored, None]
    wrong = (labels != truth) & ~ignored
    picture[wrong] = WRONG
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=82, subsampling=0)
    right = 100 * (1 - wrong.sum() / max(1, (~ignored).sum()))
    return _encode(buffer.getvalue(), "jpeg"), float(right)


def palette(run: RunRecord, names: list[str]) -> dict[str, str]:
    """Class → its colour as #rrggbb, as the examples show it; {} where there are none."""
    for path in sorted((run.path / EXAMPLES).glob("*-truth.png")):
        try:
            colors = _open(path).getpalette() or []
        except (OSError, ValueError):
            continue  # `examples` has left a note
        triples = [colors[i : i + 3] for i in range(0, 3 * len(names), 3)]
        if all(len(triple) == 3 for triple in triples):
            return {n: "#" + bytes(c).hex() for n, c in zip(names, triples, strict=True)}
    return {}


def contact_sheet(run: RunRecord) -> str | None:
    """RUN/contact_sheet.png, for runs of older versions, which have no examples."""
    path = run.path / SHEET
    return uri(path) if path.exists() else None


def uri(path: Path) -> str:
    """A file as a data URI."""
    return _encode(path.read_bytes(), "jpeg" if path.suffix == ".jpg" else "png")


def _encode(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
