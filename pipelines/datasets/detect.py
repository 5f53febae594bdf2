"""Recognises the layout of a data set by the folders and files that only this layout has."""

import re
from pathlib import Path

from fastass.pipelines.datasets.class_file import CLASS_FILE
from fastass.pipelines.datasets.files import IMAGE_SUFFIXES, Files, open_files
from fastass.pipelines.errors import DataError

_GTA5_NAME = re.compile(r"(.*/)?[0-9]{5}\.(png|jpe?g)")  # 00001.png … 24966.png


def detect_layout(root: str | Path | Files) -> str:
    """The layout of a data set. Raises DataError if nothing, or nothing for certain, fits."""
    files = open_files(root) if isinstance(root, str | Path) else root
    folders, names = files.folders(), files.file_names()
    own = CLASS_FILE in names
    if "leftImg8bit" in folders:
        return _without_class_file(files, "cityscapes", own)
    if "RGB" in folders and "LABELS" in files.folders("GT"):
        return _without_class_file(files, "synthia", own)
    if "images" in folders:
        if own:
            return "folder"
        if alike := [name for name in names + folders if _like_class_file(name)]:
            raise DataError(
                f"{files.label}: found {alike[0]}, but the class table of your own data must be a "
                f"file {CLASS_FILE}; rename it, or pass --layout gta5"
            )
        if "labels" in folders:
            _check_gta5(files)
            return "gta5"
    raise DataError(
        f"{files.label}: layout not recognised; looked for images/ + labels/ (gta5), RGB/ + "
        f"GT/LABELS/ (synthia), leftImg8bit/ + gtFine/ (cityscapes), images/ + {CLASS_FILE} "
        f"(folder); found {_listing(files)}"
    )


def _without_class_file(files: Files, layout: str, own: bool) -> str:
    if own:
        raise DataError(
            f"{files.label}: has the folders of layout {layout}, and a {CLASS_FILE}, which only "
            f"layout folder reads; pass --layout {layout}, or --layout folder"
        )
    return layout


def _check_gta5(files: Files) -> None:
    """Raise DataError for images that are not named as GTA5's."""
    for name, _ in files.below("images"):
        if name.lower().endswith(IMAGE_SUFFIXES) and not _GTA5_NAME.fullmatch(name):
            raise DataError(
                f"{files.label}: images/{name} is no name of GTA5, whose images are 00001.png …; "
                f"your own data need a {CLASS_FILE} beside images/ (or pass --layout gta5)"
            )


def _like_class_file(name: str) -> bool:
    """classes.yml, Classes.YAML, class.yaml, classes.yaml.txt, a folder or dead link so named …"""
    return re.match(r"(?i)class(es)?\b", name) is not None


def _listing(files: Files) -> str:
    names = sorted([f"{name}/" for name in files.folders()] + files.file_names())
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "an empty folder"
