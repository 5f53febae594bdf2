"""The splits of a data set: sub-folders of its image folder, one of which is asked for."""

import re
from typing import Literal

from fastass.pipelines.datasets.files import IMAGE_SUFFIXES, Files
from fastass.pipelines.errors import DataError

WHOLE = ("train", "all")  # what a data set without splits may be asked for
_LIKE_SPLIT = re.compile(r"(?i)(train|val|test|dev)")


def split_folder(
    files: Files,
    images: str,
    split: str,
    splits: Literal["always", "maybe", "never"],
    whole: bool,
) -> str:
    """The sub-folder "/NAME" of the folder `images` that is the split; "" for a set without splits.

    splits: whether sub-folders of the image folder are splits; maybe: unless images lie beside
    them. whole: a set without splits may be asked for any split. Otherwise it is `train`, or `all`:
    nothing is validated on training images because a folder is missing. Raises DataError with the
    splits that there are.
    """
    there = files.folders(images) if splits != "never" else []
    beside = [name for name in files.file_names(images) if name.lower().endswith(IMAGE_SUFFIXES)]
    if there and beside and splits == "maybe":
        if alike := [name for name in there if _LIKE_SPLIT.match(name)]:
            raise DataError(
                f"{files.label}: {images}/{beside[0]} lies beside the split {images}/{alike[0]}/; "
                "move it into a split"
            )
        there = []
    if there or splits == "always":
        if split not in there:
            raise DataError(
                f"{files.label}: no split {split!r}; splits there: {', '.join(there) or 'none'}"
            )
        return f"/{split}"
    if split not in WHOLE and not whole:
        raise DataError(
            f"{files.label}: no split {split!r}: {images}/ has no splits; --split all of eval, "
            "info and pack reads the whole data set, --data-val DIR of train names other data for "
            "validation"
        )
    return ""
