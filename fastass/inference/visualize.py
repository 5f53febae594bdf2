"""Pictures of results: colour labels, overlays, contact sheets, examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from fastass.pipelines.datasets.classes import IGNORE, ClassTable

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def colorize(labels: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Train ids [H,W] uint8 → colours [H,W,3] uint8; ignored pixels are black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    palette[IGNORE] = 0
    return np.take(palette, labels, axis=0)


def overlay(image: np.ndarray, labels: np.ndarray, classes: ClassTable) -> np.ndarray:
    """The image [H,W,3] uint8 under half-transparent class colours."""
    picture = np.empty_like(image)
    for rows in (slice(top, top + 256) for top in range(0, image.shape[0], 256)):  # of a few MB
        mixed = image[rows].astype(np.uint16) + colorize(labels[rows], classes)
        picture[rows] = mixed // 2
    return picture


def save_train_ids(
    labels: np.ndarray,
    classes: ClassTable,
    to: Path | IO[bytes],
    info: PngInfo | None = None,
) -> None:
    """Train ids as a PNG whose palette shows their colours; pixel values are the ids.

    info: texts to be stored in the file.
    """
    picture = Image.fromarray(labels)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    picture.putpalette(palette.tobytes())
    picture.save(to, "PNG", pnginfo=info)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    path: Path,
    classes: ClassTable,
    width: int = 384,
) -> None:
    """Rows of RGB pictures [H,W,3] under their column titles, above a legend of the classes.

    Each picture is scaled to `width` pixels.
    """
    head, gap = 28, 6
    heights = [round(width * row[0].shape[0] / row[0].shape[1]) for row in rows]
    whole = len(titles) * (width + gap) + gap
    font = ImageFont.load_default(size=16)
    names = legend(classes, font, whole - 2 * gap)
    below = head + sum(h + gap for h in heights)
    sheet = Image.new("RGB", (whole, below + names.height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (width + gap), 5), title, fill="black", font=font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            scaled = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
            sheet.paste(scaled, (gap + column * (width + gap), top))
        top += height + gap
    sheet.paste(names, (gap, below))
    sheet.save(path)


def legend(classes: ClassTable, font: Font, width: int) -> Image.Image:
    """Each class's colour and name, in lines of at most `width` pixels; black: not labelled."""
    line, swatch = 24, 14
    places: list[tuple[int, int]] = []
    names, colors = [*classes.names, "not labelled"], [*classes.colors, (0, 0, 0)]
    x = y = 0
    for name in names:
        step = swatch + 6 + round(font.getlength(name)) + 16
        if x and x + step > width:
            x, y = 0, y + line
        places.append((x, y))
        x += step
    picture = Image.new("RGB", (width, y + line), "white")
    draw = ImageDraw.Draw(picture)
    for (x, y), name, color in zip(places, names, colors, strict=True):
        draw.rectangle((x, y + 4, x + swatch, y + 4 + swatch), tuple(color), "black")
        draw.text((x + swatch + 6, y + 1), name, fill="black", font=font)
    return picture


def save_example(
    folder: Path,
    number: int,
    image: np.ndarray,
    labels: Mapping[str, np.ndarray],
    classes: ClassTable,
    width: int = 640,
) -> None:
    """Write FOLDER/<number>.jpg and, by name, <number>-<name>.png, small enough for a web page.

    image: RGB uint8 [H,W,3]. labels: train ids [H,W], scaled by nearest, saved with their colours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scale = min(1.0, width / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    small.save(folder / f"{number}.jpg", quality=88)
    for name, label in labels.items():
        ids = Image.fromarray(label).resize(size, Image.Resampling.NEAREST)
        save_train_ids(np.asarray(ids), classes, folder / f"{number}-{name}.png")
