"""Draws one image of either domain and writes its files."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fastass.pipelines.datasets.classes import GTA5, IGNORE, SYNTHIA
from fastass.pipelines.toycity.rendering import camera, png_files
from fastass.pipelines.toycity.rendering.materials import PHOTOGRAPHED, RENDERED, Look
from fastass.pipelines.toycity.rendering.render import Picture, render
from fastass.pipelines.toycity.scene import build
from fastass.pipelines.toycity.towns import GAME, TOWN

CITIES = {
    "train": ("aldermark", "brunfeld", "castelvo", "dornhaven", "elmsteden", "fiorvalle"),
    "val": ("grauhaven", "hollinde"),
}
DISTORTION = 0.06
OUT_OF_ROI, LICENSE_PLATE, CAR = 3, 34, 26
SYNTHIA_VOID = 0


@dataclass(frozen=True)
class Job:
    """One image to draw: split is source, train or val; number counts from 0 within it."""

    root: str
    split: str
    number: int
    seed: int
    size: tuple[int, int]
    layout: str
    shift: float = 1.0


def files(job: Job) -> tuple[Path, Path]:
    """The paths of a job's image and label."""
    root = Path(job.root) / job.layout
    if job.layout == "gta5":
        name = f"{job.number + 1:05d}.png"
        return root / "images" / name, root / "labels" / name
    if job.layout == "synthia":
        name = f"{job.number:07d}.png"
        return root / "RGB" / name, root / "GT" / "LABELS" / name
    cities = CITIES[job.split]
    city = cities[job.number % len(cities)]
    stem = f"{city}_{job.number // len(cities):06d}_000019"
    return (
        root / "leftImg8bit" / job.split / city / f"{stem}_leftImg8bit.png",
        root / "gtFine" / job.split / city / f"{stem}_gtFine_labelIds.png",
    )


def draw(job: Job) -> tuple[np.ndarray, Picture]:
    """The image uint8 [H,W,3], and the picture (with labels) from which it was made."""
    split = ("source", "train", "val").index(job.split)
    rng = np.random.default_rng([job.seed, split, job.number])
    if job.split == "source":
        scene = build(RENDERED, GAME, job.size, job.number, rng)
        picture = render(scene, RENDERED, 0.0, 0.42, rng)
        return camera.frame(picture, rng), picture
    look = _target_look(job.shift)
    scene = build(look, TOWN, job.size, job.number, rng)
    picture = render(scene, look, DISTORTION, float(rng.uniform(0.05, 0.4)), rng)
    return camera.photograph(picture, rng), picture


@cache
def _target_look(shift: float) -> Look:
    return RENDERED.toward(PHOTOGRAPHED, shift)


@cache
def _synthia_ids() -> np.ndarray:
    """GTA5 raw id → SYNTHIA raw id, uint16 [256]."""
    by_train_id = {train: raw for raw, train in SYNTHIA.train_ids.items() if train != IGNORE}
    table = np.full(256, SYNTHIA_VOID, np.uint16)
    for raw, train in GTA5.train_ids.items():
        table[raw] = by_train_id.get(train, SYNTHIA_VOID)
    return table


def write(job: Job) -> None:
    """Draw a job and write its two files; their folders exist."""
    image, picture = draw(job)
    image_path, label_path = files(job)
    png_files.write_rgb(image_path, image)
    label = picture.label
    if job.layout == "gta5":
        png_files.write_palette(label_path, label)
    elif job.layout == "synthia":
        planes = np.zeros((*label.shape, 3), np.uint16)
        planes[..., 0] = _synthia_ids()[label]
        planes[..., 1] = picture.instance
        png_files.write_rgb16(label_path, planes)
    else:
        label = np.where(label == LICENSE_PLATE, CAR, label).astype(np.uint8)
        edge = max(1, label.shape[1] // 400)
        inside = label[edge:-edge, edge:-edge].copy()
        label[:] = OUT_OF_ROI
        label[edge:-edge, edge:-edge] = inside
        png_files.write_grey(label_path, label)
