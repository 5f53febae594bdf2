"""The files of a data set, in a folder or in zip archives."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from fastass.pipelines.datasets.zip_files import ZipFiles, ZipMember
from fastass.pipelines.errors import DataError

File = Path | ZipMember
NPY_SUFFIX = ".npy"  # of images with further channels, see `bands`
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")  # of data sets
LABEL_SUFFIXES = (".png", ".tif", ".tiff")


def read_file(file: File) -> bytes:
    """The bytes of a file. Raises DataError."""
    if isinstance(file, ZipMember):
        return file.read_bytes()
    try:
        with open_file(file) as opened:
            return opened.read()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def open_file(path: Path) -> BinaryIO:
    """A file of a data set, opened. Raises OSError, and DataError for a pipe or a device.

    Opening a pipe would wait for a writer, and a device may have no end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path}: a pipe, a socket or a device, not a file; remove it")
    return path.open("rb")


class Files(Protocol):
    """Where a data set keeps its files. Names are relative, with slashes; "" is the root.

    Hidden files and folders (names that begin with a dot) do not exist. Raises DataError.
    label: what the user named, for messages.
    """

    root: Path
    label: str

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted; none if it does not exist."""

    def file_names(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted; none if it does not exist."""

    def below(self, folder: str) -> Iterator[tuple[str, File]]:
        """(name relative to the folder, file) of all files in it and its sub-folders."""

    def file(self, name: str) -> File:
        """One file, which must exist."""


class FolderFiles:
    """The files of a folder. Symbolic links to files and to folders are followed."""

    def __init__(self, root: Path) -> None:
        self.root, self.label = root, str(root)

    def folders(self, folder: str = "") -> list[str]:
        return [entry.name for entry in _entries(self.root / folder) if _is_folder(entry)]

    def file_names(self, folder: str = "") -> list[str]:
        return [entry.name for entry in _entries(self.root / folder) if not _is_folder(entry)]

    def below(self, folder: str) -> Iterator[tuple[str, Path]]:
        start = self.root / folder
        todo = [("", start, {_identity(start)})] if start.is_dir() else []
        while todo:
            prefix, path, above = todo.pop()
            for entry in _entries(path):
                if not _is_folder(entry):
                    yield prefix + entry.name, Path(entry.path)
                    continue
                identity = _identity(Path(entry.path))
                if identity in above:
                    raise DataError(
                        f"{entry.path}: a symbolic link to a folder that it lies in; remove it"
                    )
                todo.append((f"{prefix}{entry.name}/", Path(entry.path), above | {identity}))

    def file(self, name: str) -> Path:
        return self.root / name


def open_files(root: str | Path) -> Files:
    """The files of a folder; or of the zip archives that it holds and the files beside them, if it
    has no sub-folders; or of the archives whose paths `root` lists, separated by commas.

    Raises DataError: no such folder, an archive is missing or damaged.
    """
    path = Path(root)
    if path.is_dir():
        folder = FolderFiles(path)
        names = folder.file_names()
        archives = [path / name for name in names if name.lower().endswith(".zip")]
        if archives and not folder.folders():
            beside = [path / name for name in names if path / name not in archives]
            return ZipFiles(archives, beside, label=str(root))
        return folder
    parts = paths_of(root)
    if parts and all(part.suffix.lower() == ".zip" for part in parts):
        return ZipFiles(parts, label=str(root))
    what = "is no directory" if path.exists() else "no such directory"
    raise DataError(
        f"{root}: {what}; give the root of a data set, or its zip archives (images.zip,labels.zip)"
    )


def paths_of(root: str | Path) -> list[Path]:
    """The folder or the archives that a root names: a path, or several, separated by commas."""
    path = Path(root)
    return [path] if path.exists() else [Path(part) for part in str(root).split(",") if part]


def check_no_lost_folder(file: File) -> None:
    """DataError for a link that leads nowhere: a folder of images may be missing there."""
    if isinstance(file, Path) and file.is_symlink() and not file.exists():
        raise DataError(
            f"{file}: a symbolic link to {os.readlink(file)}, which is not there; mount or restore "
            "it, or remove the link"
        )


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed as a file, and reading it says so
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    """What is not hidden in a folder, by name: folders, files, and links that lead nowhere."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
    return sorted(visible, key=lambda entry: entry.name)
