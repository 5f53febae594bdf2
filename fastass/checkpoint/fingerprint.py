"""What the images of a run were: RUN/inputs.json, which shows on resuming that data have changed.

    images    number of images
    names     SHA-256 of their names
    meaning   CRC-32 of what label values mean, where a class file says it
    sizes     bytes of each file
    contents  CRC-32 of each file, where an archive or a packed directory lists it
    ends      CRC-32 of the last bytes of each other file; a PNG has a checksum of its pixels there
    probes    CRC-32 of a few files, which are read: uncompressed images all have one size

Each of the last four is a pair of texts, for the images and for their labels, with 8 hexadecimal
digits for each sample. Times and paths are left out: a copy of the data has the same fingerprint.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastass.errors import DataError, UserError
from fastass.pipelines.datasets.files import File, open_file, read_file
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.dataset import AnyDataset
from fastass.pipelines.packed.index import Member

PROBES = 8  # samples per data set whose files are read
DIGITS = 8
UNKNOWN = "-" * DIGITS  # a file that is not there, or not readable
KEYS = ("sizes", "contents", "ends", "probes")
END = 64  # bytes: the checksums of zlib and of the last chunk, and the chunk after it

Stored = File | Member | None


def fingerprint(data: AnyDataset) -> dict[str, Any]:
    """The fingerprint of a data set. Reads the files of a few samples."""
    names = open_reader(data).names
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
    found: dict[str, Any] = {"images": len(names), "names": digest}
    if isinstance(data, Dataset) and data.layout == "folder":
        meaning = (sorted(data.classes.train_ids.items()), data.classes.ignore_others)
        found["meaning"] = zlib.crc32(repr(meaning).encode())
    columns = _files(data)
    found["sizes"] = [_digits(_size, column) for column in columns]
    if not any(isinstance(file, Path) for column in columns for file in column):
        found["contents"] = [_digits(_crc32, column) for column in columns]
    else:
        found["ends"] = [_digits(_end, column) for column in columns]
    probed = probes(len(names))
    found["probes"] = [_digits(_crc32, [column[i] for i in probed]) for column in columns]
    return found


def probes(count: int) -> list[int]:
    """The samples, of so many, whose files are read."""
    return sorted({i * (count - 1) // (PROBES - 1) for i in range(PROBES)})


def _files(data: AnyDataset) -> tuple[list[Stored], list[Stored]]:
    """Images, and their labels."""
    if isinstance(data, Dataset):
        return [s.image for s in data.samples], [s.label for s in data.samples]
    records = [record for _, record in data.locations]
    return [r.image for r in records], [r.label for r in records]


def _digits(number: Callable[[Any], int], files: Sequence[Stored]) -> str:
    texts = []
    for file in files:
        try:
            texts.append(UNKNOWN if file is None else f"{number(file) & 0xFFFFFFFF:08x}")
        except (OSError, DataError):  # reading it for training says what is wrong with it
            texts.append(UNKNOWN)
    return "".join(texts)


def _size(file: File | Member) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.size


def _end(file: File | Member) -> int:
    if not isinstance(file, Path):
        return file.crc32
    with open_file(file) as opened:
        opened.seek(max(0, file.stat().st_size - END))
        return zlib.crc32(opened.read(END))


def _crc32(file: File | Member) -> int:
    return zlib.crc32(read_file(file)) if isinstance(file, Path) else file.crc32


def check_fingerprint(
    run: Path,
    name: str,
    saved: Any,
    now: Mapping[str, Any],
    names: Sequence[str],
    note: Callable[[str], None],
) -> None:
    """Compare a data set with what a run had as its `name` data: source, target or val.

    Single files may be mended or replaced: `note` gets a line. UserError for other images, for
    labels of another meaning, and where more than half of the files have changed. names: of the
    images. What one of the two fingerprints does not have is not compared.
    """
    remedy = f"give --data-{name} with the data that it was trained on"
    if not isinstance(saved, dict) or any(saved.get(k) != now.get(k) for k in ("images", "names")):
        old = saved.get("images") if isinstance(saved, dict) else "?"
        raise UserError(
            f"{run}: can't resume: the {name} images are not those of the run "
            f"({old} → {now.get('images', 0)} images); {remedy}"
        )
    if "meaning" in saved and "meaning" in now and saved["meaning"] != now["meaning"]:
        raise UserError(
            f"{run}: can't resume: the class file of the {name} data gives label values another "
            f"meaning than when the run started; {remedy}"
        )
    changed: set[int] = set()
    for key in KEYS:
        if key in saved and key in now:
            places = probes(len(names)) if key == "probes" else range(len(names))
            differ = [places[i] for i in _differences(saved[key], now[key], len(places))]
            if 2 * len(differ) > len(places):
                raise UserError(
                    f"{run}: can't resume: most {name} files have changed since the run started "
                    f"({key}; the first: {names[differ[0]]}); {remedy}"
                )
            changed.update(differ)
    if changed:
        note(
            f"{run}: {len(changed)} of {len(names)} {name} images or their labels have changed "
            f"since the run started (the first: {names[min(changed)]}); the new ones are used"
        )


def _differences(saved: Any, now: Sequence[str], count: int) -> list[int]:
    """The samples of which image or label differ; all of them for a damaged text."""
    pairs = list(zip(saved, now, strict=False)) if isinstance(saved, list) else []
    if len(pairs) != 2 or any(not isinstance(a, str) or len(a) != len(b) for a, b in pairs):
        return list(range(count))
    found: set[int] = set()
    for pair in pairs:
        old, new = ([text[i : i + DIGITS] for i in range(0, len(text), DIGITS)] for text in pair)
        known = ((i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != UNKNOWN)
        found.update(i for i, a, b in known if a != b != UNKNOWN)
    return sorted(found)
