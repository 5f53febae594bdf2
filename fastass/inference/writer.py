"""Writing predictions: files that are whole or absent, of one network, in several formats."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastass.checkpoint.json_file import read_json
from fastass.config.text import neighbours
from fastass.errors import DataError, UserError
from fastass.inference.formats import PREDICTION_FORMATS
from fastass.inference.frames import Frame
from fastass.inference.segmenter import Segmenter
from fastass.inference.views import Views
from fastass.inference.visualize import colorize, overlay, save_train_ids
from fastass.pipelines.datasets.classes import CITYSCAPES, ClassTable
from fastass.pipelines.datasets.image_file import DAMAGE
from fastass.pipelines.file_lock import locked
from fastass.pipelines.new_file import open_new
from fastass.runtime.atomic_write import write_whole, writing

SETTINGS, LOCK = "predict.json", ".predict.lock"
MADE_WITH = "fastass"  # the key of a result's text


@dataclass(frozen=True)
class Writer:
    """Writes predictions under `out` in the formats asked for, as OUT/NAME_FORMAT.png.

    trainIds: pixel value = train id, with the classes' colours as palette. labelIds: pixel value =
    label id of Cityscapes, as its evaluation server expects. color: the classes' colours. overlay:
    the image under the colours. inputs: real paths of the images, which are never replaced; nor is
    a file that is no result of an earlier command.
    made_with: stands in every file, with the image's checksum: a resumed command keeps no results
    of another network, or of another image of that name.
    """

    out: Path
    formats: tuple[str, ...]
    classes: ClassTable
    inputs: frozenset[str] = frozenset()
    made_with: str = ""

    def __post_init__(self) -> None:
        if "labelIds" in self.formats:
            label_ids(self.classes)

    def paths(self, name: str) -> dict[str, Path]:
        """Format → file of the results of an image."""
        stem = result_name(name)
        return {form: self.out / f"{stem}_{form}.png" for form in self.formats}

    def is_done(self, name: str, checksum: int) -> bool:
        """Whether all results of an image are there; each is whole, or it would not be there."""
        wanted = self._mark(checksum)
        return all(_made_with(path) == wanted for path in self.paths(name).values())

    def _mark(self, checksum: int) -> str:
        return f"{self.made_with}-{checksum:08x}"

    def __call__(self, frame: Frame, predicted: np.ndarray) -> None:
        """Write one image's prediction, train ids uint8 [H,W]."""
        for form, path in self.paths(frame.name).items():
            if os.path.realpath(path) in self.inputs:
                raise UserError(f"{path}: the result would replace an input; choose another --out")
            if os.path.lexists(path) and _made_with(path) is None:
                raise UserError(
                    f"{path}: exists and is no result of fastass predict; choose another --out"
                )
            temporary = path.with_name(f".{path.name}.tmp")
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with open_new(temporary) as file:
                        self._save(form, frame, predicted, file)
                    temporary.replace(path)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise

    def _save(self, form: str, frame: Frame, predicted: np.ndarray, file: IO[bytes]) -> None:
        info = PngInfo()
        info.add_text(MADE_WITH, self._mark(frame.checksum))
        match form:
            case "trainIds":
                save_train_ids(predicted, self.classes, file, info)
                return
            case "labelIds":
                picture = label_ids(self.classes)[predicted]
            case "color":
                picture = colorize(predicted, self.classes)
            case _:
                picture = overlay(frame.pixels[:, :, :3], predicted, self.classes)
        Image.fromarray(picture).save(file, "PNG", pnginfo=info)


def result_name(name: str) -> str:
    """The name of an image's results: the evaluation server wants it without this end."""
    return name.removesuffix("_leftImg8bit")


def _made_with(path: Path) -> str | None:
    """What a result was made with; None for a file that is not there, or is no result."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(MADE_WITH)
    except DAMAGE:
        return None


def settings_of(
    segmenter: Segmenter, views: Views, size: tuple[int, int] | None
) -> dict[str, object]:
    """All that results depend on, beside the images."""
    return {
        "network": _digest(segmenter),
        "size": list(size) if size else None,
        "scales": list(views.scales),
        "flip": views.flip,
        "tile": list(views.tile) if views.tile else None,
        "overlap": views.overlap,
    }


def digest(settings: Mapping[str, object]) -> str:
    """A checksum of the settings, for `Writer.made_with`."""
    return f"{zlib.crc32(json.dumps(settings).encode()):08x}"


@contextmanager
def results_of(out: Path, settings: Mapping[str, object], resume: bool) -> Iterator[None]:
    """Hold `out` for one process, and note there what its results are made with.

    With `resume`, results of another network or other settings are refused. Raises UserError.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / LOCK, "predicting into it"):
            if resume:
                _check(out, settings)
            write_whole(out / SETTINGS, json.dumps(settings, indent=2) + "\n")
            yield
    except DataError as error:
        if str(error).endswith("is predicting into it"):
            raise UserError(f"{error}; wait for it, or choose another --out") from None
        raise


def _check(out: Path, settings: Mapping[str, object]) -> None:
    if not (out / SETTINGS).exists():
        others = next((path for path in out.rglob("*.png")), None)
        if others is not None:
            raise UserError(
                f"{out}: it is not known what its results are made with ({SETTINGS} is missing); "
                "leave out --resume, or choose another --out"
            )
        return
    saved = read_json(out / SETTINGS)
    for name, value in settings.items():
        if saved.get(name) != value:
            raise UserError(
                f"{out}: its results are made with another {name}; leave out --resume, or choose "
                "another --out"
            )


def _digest(segmenter: Segmenter) -> int:
    """CRC-32 of the network's weights and of the way images are prepared."""
    crc = zlib.crc32(repr((segmenter.classes.names, segmenter.prepare)).encode())
    for name, value in segmenter.generator.state_dict().items():
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
    return crc


def label_ids(classes: ClassTable) -> np.ndarray:
    """Train id → id of the Cityscapes labels, uint8 [C]. UserError for a class of another name."""
    ids = {train_id: raw for raw, train_id in CITYSCAPES.train_ids.items()}
    foreign = [name for name in classes.names if name not in CITYSCAPES.names]
    if foreign:
        raise UserError(
            f"format labelIds: Cityscapes has no class {foreign[0]!r}, which this network predicts"
        )
    return np.array([ids[CITYSCAPES.names.index(name)] for name in classes.names], np.uint8)


def parse_formats(text: str) -> tuple[str, ...]:
    """`trainIds,overlay` → its parts. UserError for an unknown format."""
    formats = tuple(part.strip() for part in text.split(",") if part.strip())
    for form in formats:
        if form not in PREDICTION_FORMATS:
            raise UserError(
                f"--format: unknown value {form!r}; {neighbours(form, [*PREDICTION_FORMATS])}"
            )
    if not formats:
        raise UserError(f"--format: give one or more of {', '.join(PREDICTION_FORMATS)}")
    return formats
