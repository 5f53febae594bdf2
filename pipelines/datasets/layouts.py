"""Data sets as their owners ship them: finds images and the labels that belong to them.

    gta5        images/*.png, labels/*.png (palette PNGs whose indices are label ids)
    synthia     RGB/*.png, GT/LABELS/*.png (16-bit PNGs, class id in the first channel)
    cityscapes  leftImg8bit/<split>/<city>/*_leftImg8bit.png,
                gtFine/<split>/<city>/*_gtFine_labelIds.png
    folder      images/[<split>/]**, labels/[<split>/]** of the same relative stems, classes.yaml

Nothing is decoded here; see `fastass.pipelines.datasets.decode` for the pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fastass.pipelines.datasets.class_file import CLASS_FILE, read_class_file
from fastass.pipelines.datasets.classes import CITYSCAPES, GTA5, SYNTHIA, ClassTable
from fastass.pipelines.datasets.image_file import SUFFIXES
from fastass.pipelines.errors import DataError

LAYOUTS = ("gta5", "synthia", "cityscapes", "folder")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Sample:
    """One image and its label, if it has one. name: unique in the data set."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Dataset:
    """The samples of one split, sorted by name, and the class table of their labels.

    rgb16: labels are 16-bit RGB PNGs with the class id in the first channel (SYNTHIA).
    """

    layout: str
    root: Path
    split: str
    classes: ClassTable
    samples: tuple[Sample, ...]
    rgb16: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def with_classes(self, names: Iterable[str]) -> "Dataset":
        """The same files with fewer classes; all others are ignored (SYNTHIA trains on 16)."""
        return replace(self, classes=self.classes.subset(names))


@dataclass(frozen=True)
class _Layout:
    """The folders of a layout, and the name patterns of its image and label files."""

    images: str
    labels: str
    table: ClassTable | None  # None: the class file of the root
    image_tail: str = ""
    label_tail: str = ""
    split_folders: bool = False
    rgb16: bool = False


_LAYOUTS = {
    "gta5": _Layout("images", "labels", GTA5),
    "synthia": _Layout("RGB", "GT/LABELS", SYNTHIA, rgb16=True),
    "cityscapes": _Layout(
        "leftImg8bit", "gtFine", CITYSCAPES, "_leftImg8bit", "_gtFine_labelIds", split_folders=True
    ),
    "folder": _Layout("images", "labels", None),
}


def open_dataset(
    root: str | Path,
    layout: str = "auto",
    split: str = "train",
    labels: Literal["required", "optional"] = "required",
) -> Dataset:
    """Lists the samples of a data set.

    split: `train`, `val`, `test`… of Cityscapes; of `folder` where images/<split>/ exists. GTA5 and
    SYNTHIA are one set, whatever the split. labels: `optional` accepts images without a label.
    Raises DataError: root missing, layout not recognised, no samples, image without label, label
    without image, a bad class file.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; give the root of a data set")
    name = detect_layout(root) if layout == "auto" else layout
    if name not in _LAYOUTS:
        raise DataError(f"layout {name!r} is unknown; choose one of auto, {', '.join(LAYOUTS)}")
    rule = _LAYOUTS[name]
    images, label_dir = root / rule.images, root / rule.labels
    if rule.split_folders or (name == "folder" and (images / split).is_dir()):
        images, label_dir = images / split, label_dir / split
    if not images.is_dir():
        raise DataError(
            f"{root}: no folder {images.relative_to(root)}/, which layout {name} needs"
            + (f" for split {split!r}{_splits(images.parent)}" if rule.split_folders else "")
        )
    table = rule.table if rule.table is not None else read_class_file(root / CLASS_FILE)
    samples = _pair(
        root,
        _files(images, rule.image_tail, IMAGE_SUFFIXES),
        _files(label_dir, rule.label_tail, (".png",)),
        labels == "required",
        lambda stem: label_dir.relative_to(root) / f"{stem}{rule.label_tail}.png",
    )
    if not samples:
        raise DataError(f"{images}: no images ({', '.join(IMAGE_SUFFIXES)}) in it")
    return Dataset(name, root, split, table, samples, rule.rgb16)


def open_images(path: str | Path) -> Dataset:
    """One image file, or all images under a folder, without labels: for prediction.

    Any format that fastass can read, not only those of data sets. Raises DataError.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        samples: tuple[Sample, ...] = (Sample(path.stem, path, None),)
    elif path.is_dir():
        images = _files(path, "", SUFFIXES)
        samples = tuple(Sample(stem, images[stem], None) for stem in sorted(images))
    else:
        raise DataError(f"{path}: neither an image file nor a folder")
    if not samples:
        raise DataError(f"{path}: no images ({', '.join(SUFFIXES)}) in it")
    root = path if path.is_dir() else path.parent
    return Dataset("images", root, "all", CITYSCAPES, samples)


def detect_layout(root: Path) -> str:
    """The layout of a root directory, from the folders that only this layout has."""
    if (root / "GT" / "LABELS").is_dir() and (root / "RGB").is_dir():
        return "synthia"
    if (root / "leftImg8bit").is_dir():
        return "cityscapes"
    if (root / "images").is_dir():
        if (root / CLASS_FILE).is_file():
            return "folder"
        if (root / "labels").is_dir():
            return "gta5"
    raise DataError(
        f"{root}: layout not recognised; looked for images/ + labels/ (gta5), RGB/ + GT/LABELS/ "
        f"(synthia), leftImg8bit/ + gtFine/ (cityscapes), images/ + {CLASS_FILE} (folder); "
        f"found {_listing(root)}"
    )


def _files(folder: Path, tail: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Relative stem without `tail` → file; skips hidden files and other suffixes."""
    by_stem: dict[str, Path] = {}
    if not folder.is_dir():
        return by_stem
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if not path.stem.endswith(tail):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        stem = stem[: len(stem) - len(tail)]
        if stem in by_stem:
            raise DataError(f"{path}: same sample as {by_stem[stem].name}; keep one of them")
        by_stem[stem] = path
    return by_stem


def _pair(
    root: Path,
    images: dict[str, Path],
    labels: dict[str, Path],
    required: bool,
    label_name: Callable[[str], Path],
) -> tuple[Sample, ...]:
    if orphans := sorted(labels.keys() - images.keys()):
        raise DataError(f"{labels[orphans[0]]}: label without image{_and_more(orphans)}")
    if required and (bare := sorted(images.keys() - labels.keys())):
        raise DataError(
            f"{images[bare[0]]}: image without label{_and_more(bare)}; "
            f"{label_name(bare[0])} is missing in {root}"
        )
    return tuple(Sample(stem, images[stem], labels.get(stem)) for stem in sorted(images))


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _splits(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return f"; splits there: {', '.join(names) or 'none'}"


def _listing(root: Path) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "an empty folder"
