"""Data sets as their owners ship them: finds images and the labels that belong to them.

    gta5        images/*.png, labels/*.png (palette PNGs whose indices are label ids)
    synthia     RGB/*.png, GT/LABELS/*.png (16-bit PNGs, class id in the first channel)
    cityscapes  leftImg8bit/<split>/<city>/*_leftImg8bit.png,
                gtFine/<split>/<city>/*_gtFine_labelIds.png
    folder      images/[<split>/]**, labels/[<split>/]** of the same relative stems, classes.yaml

GTA5 and SYNTHIA may have <split>/ folders too. Symbolic links are followed; hidden files and
folders are not read. Zip archives of the owners are read as if they were unpacked.
Other layouts: `fastass.pipelines.datasets.custom_layout`.
Nothing is decoded here; see `fastass.pipelines.datasets.decode` for the pixels.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fastass.pipelines.datasets.class_file import CLASS_FILE, read_class_file
from fastass.pipelines.datasets.classes import CITYSCAPES, GTA5, SYNTHIA, ClassTable
from fastass.pipelines.datasets.custom_layout import load_layout
from fastass.pipelines.datasets.detect import detect_layout as detect_layout
from fastass.pipelines.datasets.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    NPY_SUFFIX,
    File,
    Files,
    FolderFiles,
    check_no_lost_folder,
    open_files,
)
from fastass.pipelines.datasets.image_file import SUFFIXES
from fastass.pipelines.datasets.splits import WHOLE, split_folder
from fastass.pipelines.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One image and its label, if it has one. name: unique in the data set."""

    name: str
    image: File
    label: File | None


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return (
            f"<Dataset {self.layout}, {self.root}, split {self.split}: {len(self)} images, "
            f"{len(self.classes)} classes>"
        )

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
    splits: Literal["always", "maybe", "never"] = "maybe"
    rgb16: bool = False


_LAYOUTS = {
    "gta5": _Layout("images", "labels", GTA5),
    "synthia": _Layout("RGB", "GT/LABELS", SYNTHIA, rgb16=True),
    "cityscapes": _Layout(
        "leftImg8bit", "gtFine", CITYSCAPES, "_leftImg8bit", "_gtFine_labelIds", splits="always"
    ),
    "folder": _Layout("images", "labels", None),
}
LAYOUTS = tuple(_LAYOUTS)
# Formats that only `open_images` takes, or nothing here: such a file would be left out in silence.
_PICTURES = {*SUFFIXES, ".heic", ".heif"} - {*IMAGE_SUFFIXES}


class LayoutName:
    """The permitted names of a layout, for help texts: `Annotated[str, LayoutName()]`."""

    def __str__(self) -> str:
        return f"auto, {', '.join(LAYOUTS)} or MODULE:NAME"


def open_dataset(
    root: str | Path,
    layout: str = "auto",
    split: str = "train",
    labels: Literal["required", "optional"] = "required",
    *,
    whole: bool = False,
) -> Dataset:
    """Find the samples of a data set.

    root: its folder; a folder of its zip archives; or the archives, separated by commas. split: a
    sub-folder of the image folder. A data set without splits is `train`, or `all`; whole: it may
    be asked for any split. labels: `optional` accepts images without a label.
    layout: auto, one of `LAYOUTS`, an entry point's name or MODULE:NAME.
    Raises DataError: root missing, layout not recognised, no such split, no samples, an image
    without label, a label without image, a bad class file.
    """
    if layout not in ("auto", *LAYOUTS):
        return _open_custom(Path(root), layout, split, labels)
    files = open_files(root)
    name = detect_layout(files) if layout == "auto" else layout
    rule, table = _with_class_file(_LAYOUTS[name], files)
    parent, _, last = rule.images.rpartition("/")
    if last not in files.folders(parent):
        raise DataError(f"{files.label}: no folder {rule.images}/, which layout {name} needs")
    part = split_folder(files, rule.images, split, rule.splits, whole)
    images = _files(files, rule.images + part, rule.image_tail, IMAGE_SUFFIXES)
    images = images or _files(files, rule.images + part, rule.image_tail, (NPY_SUFFIX,))
    samples = _pair(
        files.root,
        images,
        _files(files, rule.labels + part, rule.label_tail, LABEL_SUFFIXES),
        labels == "required",
        lambda stem: f"{rule.labels}{part}/{stem}{rule.label_tail}.png",
    )
    if not samples:
        ending = f" that end with {rule.image_tail}" if rule.image_tail else ""
        raise DataError(
            f"{files.label}: no images ({', '.join(IMAGE_SUFFIXES)}){ending} in "
            f"{rule.images}{part}/"
        )
    if not part and split not in WHOLE:
        split = "all"
    return Dataset(name, files.root, split, table, samples, rule.rgb16)


def _open_custom(root: Path, layout: str, split: str, labels: str) -> Dataset:
    """The samples that a layout of another package finds, checked and sorted by name."""
    data = load_layout(layout, LAYOUTS)(root, split, labels)
    if not isinstance(data, Dataset):
        raise DataError(f"layout {layout}: returned {type(data).__name__}, not a Dataset")
    samples = sorted(data.samples, key=lambda sample: sample.name)
    if not samples:
        raise DataError(f"{root}: layout {layout} found no images of split {split}")
    if len({sample.name for sample in samples}) < len(samples):
        raise DataError(f"{root}: layout {layout} gave two samples the same name")
    if labels == "required" and (bare := [s.name for s in samples if s.label is None]):
        raise DataError(f"{root}: {bare[0]}: image without label{_and_more(bare)}")
    return replace(data, layout=layout, samples=tuple(samples))


def _with_class_file(rule: _Layout, files: Files) -> tuple[_Layout, ClassTable]:
    """The rule of a layout and its table; of the user's own data, as their class file says."""
    if rule.table is not None:
        return rule, rule.table
    if CLASS_FILE not in files.file_names():
        raise DataError(
            f"{files.label}: no {CLASS_FILE} beside images/; layout folder needs class names and "
            "ids"
        )
    own = read_class_file(files.file(CLASS_FILE))
    splits: Literal["maybe", "never"] = "maybe" if own.splits else "never"
    rule = replace(rule, image_tail=own.image_suffix, label_tail=own.label_suffix, splits=splits)
    return rule, own.table


def open_images(path: str | Path) -> Dataset:
    """One image file, or all images under a folder, without labels: for prediction.

    Any format that fastass can read, not only those of data sets. Raises DataError.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        samples: tuple[Sample, ...] = (Sample(path.stem, path, None),)
    elif path.is_dir():
        images = _files(FolderFiles(path), "", "", SUFFIXES)
        samples = tuple(Sample(stem, images[stem], None) for stem in sorted(images))
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    else:
        raise DataError(f"{path}: neither an image file nor a folder")
    if not samples:
        raise DataError(f"{path}: no images ({', '.join(SUFFIXES)}) in it")
    root = path if path.is_dir() else path.parent
    return Dataset("images", root, "all", CITYSCAPES, samples)


def _files(files: Files, folder: str, tail: str, suffixes: tuple[str, ...]) -> dict[str, File]:
    """Relative stem without `tail` → file, of all files with one of the suffixes."""
    by_stem: dict[str, File] = {}
    for name, file in files.below(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in suffixes or not stem.endswith(tail):
            check_no_lost_folder(file)
            if suffixes is not SUFFIXES and suffix.lower() in _PICTURES and stem.endswith(tail):
                raise DataError(
                    f"{file}: {suffix} is no format of data sets ({', '.join(suffixes)}); convert "
                    "it, or move it away"
                )
            continue
        stem = stem[: len(stem) - len(tail)]
        if stem in by_stem:
            raise DataError(f"{file}: same sample as {by_stem[stem]}; keep one of them")
        by_stem[stem] = file
    return by_stem


def _pair(
    root: Path,
    images: dict[str, File],
    labels: dict[str, File],
    required: bool,
    label_name: Callable[[str], str],
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
