"""The files of a data set in the zip archives that its owners publish, read without unpacking."""

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fastass.pipelines.errors import DataError

MAX_BYTES = 1 << 31  # of one file: an archive can claim more than memory holds
# The first folders of the layouts: never taken for the folder that somebody zipped as a whole.
_LAYOUT_FOLDERS = ("images", "labels", "RGB", "GT", "leftImg8bit", "gtFine", "gtCoarse")
# What the zip module raises for damaged archives, and RuntimeError for encrypted ones.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)


@dataclass(frozen=True)
class ZipMember:
    """One file in an archive. name: its path there. size: in bytes, unpacked."""

    archive: Path
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    @property
    def modified_ns(self) -> int:
        """When the archive was modified, as `st_mtime_ns`."""
        return self.archive.stat().st_mtime_ns

    @property
    def crc32(self) -> int:
        """The checksum of the unpacked file, as the archive lists it."""
        return _open(self.archive).getinfo(self.name).CRC

    def read_bytes(self) -> bytes:
        """The file unpacked, its checksum verified. Raises DataError."""
        if self.size > MAX_BYTES:
            raise DataError(f"{self}: has {self.size} bytes, more than {MAX_BYTES}")
        try:
            return _open(self.archive).read(self.name)
        except _DAMAGE as error:
            raise DataError(f"{self}: cannot be unpacked: {_reason(error)}") from None


class ZipFiles:
    """The files of several archives, as if they were unpacked into one folder.

    If all of them lie in one folder that is not a layout's, that folder is the root. beside: files
    in the root that are in no archive, such as a class file.
    """

    def __init__(
        self, archives: Sequence[Path], beside: Sequence[Path] = (), *, label: str
    ) -> None:
        self.label = label
        self._members: dict[str, ZipMember] = {}
        self._doubled: dict[str, ZipMember] = {}
        for archive in archives:
            for member in _list(archive):
                if member.name in self._members:
                    self._doubled[member.name] = member
                self._members.setdefault(member.name, member)
        self.root = Path(os.path.commonpath([archive.parent for archive in archives]))
        self._prefix = _common_folder(list(self._members))
        self._folders: dict[str, set[str]] = {}
        self._names: dict[str, set[str]] = {}
        for name in self._members:
            folder, last = "", ""
            *parents, last = name.removeprefix(self._prefix).split("/")
            for parent in parents:
                self._folders.setdefault(folder, set()).add(parent)
                folder = f"{folder}/{parent}" if folder else parent
            self._names.setdefault(folder, set()).add(last)
        self._beside = {path.name: path for path in beside}

    def folders(self, folder: str = "") -> list[str]:
        return sorted(self._folders.get(folder, ()))

    def file_names(self, folder: str = "") -> list[str]:
        beside = () if folder else self._beside
        return sorted({*self._names.get(folder, ()), *beside})

    def below(self, folder: str) -> Iterator[tuple[str, ZipMember]]:
        start = f"{self._prefix}{folder}/"
        for name, member in self._members.items():
            if name.startswith(start):
                if name in self._doubled:
                    raise DataError(f"{member}: is also in {self._doubled[name].archive}")
                yield name.removeprefix(start), member

    def file(self, name: str) -> ZipMember | Path:
        beside, member = self._beside.get(name), self._members.get(f"{self._prefix}{name}")
        if beside and member:
            raise DataError(f"{beside}: is also in {member.archive}; remove one of them")
        return beside or self._members[f"{self._prefix}{name}"]


def _list(archive: Path) -> Iterator[ZipMember]:
    """The files of an archive that are not hidden."""
    try:
        entries = _open(archive).infolist()
    except _DAMAGE as error:
        raise DataError(f"{archive}: cannot be read as a zip archive: {_reason(error)}") from None
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if not parts or entry.filename.endswith("/"):  # a folder
            continue
        if "__MACOSX" in parts or any(part.startswith(".") for part in parts):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{archive}/{entry.filename}: is a symbolic link; unpack the archive")
        yield ZipMember(archive, entry.filename, entry.file_size)


def _common_folder(names: list[str]) -> str:
    """The folder, with its slash, that all names begin with; "" if there is none."""
    first = {name.split("/")[0] for name in names}
    folder = first.pop() if len(first) == 1 else ""
    if not folder or folder in _LAYOUT_FOLDERS or folder in names:
        return ""
    return f"{folder}/"


@lru_cache(maxsize=64)
def _open(archive: Path) -> zipfile.ZipFile:
    """Opened once per process: listing the images of GTA5 takes tenths of a second."""
    return zipfile.ZipFile(archive)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
