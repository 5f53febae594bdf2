"""Reading weight files safely: tensors come out, code never runs."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fastass.errors import UserError

# Where training scripts put the state dict inside a larger checkpoint.
WRAPPERS = ("state_dict", "model", "model_state_dict")


class WeightsError(UserError):
    """Weights that cannot be used. The message is one line: file, what is wrong, the remedy."""


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, a `torch.save` file, or a fastass checkpoint directory.

    Raises WeightsError for a missing, truncated or foreign file, a pickle that holds more than
    plain tensors, and for values that are not finite.
    """
    path = find_weight_file(Path(path))
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path}: {name} holds values that are not finite")
    return tensors


def find_weight_file(path: Path) -> Path:
    """The file itself; of a directory its `model.safetensors`."""
    if path.is_dir():
        if (path / "model.safetensors").is_file():
            return path / "model.safetensors"
        inside = sorted({str(p.parent) for p in path.glob("*/**/model.safetensors")})
        remedy = f"give one of: {', '.join(inside)}" if inside else "give a checkpoint directory"
        raise WeightsError(f"{path}: no model.safetensors in this directory; {remedy}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    return path


def read_safetensors(path: Path) -> dict[str, Tensor]:
    with _safetensors(path):
        return load_file(path)


def read_header(path: Path) -> dict[str, str]:
    """The texts in the header of a `.safetensors` file; other files have none."""
    if path.suffix != ".safetensors":
        return {}
    with _safetensors(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: damaged or not a safetensors file ({reason})") from None


def check_zip(file: IO[bytes] | Path, where: Path) -> None:
    """WeightsError for a compressed archive: torch writes none, and 1 MB of it may become 1 GB."""
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            compressed = any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return  # torch's reader says what is wrong
    if compressed:
        raise WeightsError(f"{where}: refused, a compressed archive; save it again with torch.save")


def check_storage(content: Any, where: Path) -> None:
    """WeightsError for a tensor that claims more values than the file holds for it.

    A tensor's strides may be zero, so a file of 1 kB can hold one of 10^10 values.
    """
    for name, tensor in _tensors(content):
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        size = tensor.numel() * tensor.element_size()
        if not plain or size > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{where}: refused, {name or 'a tensor'} is not stored whole")


def _tensors(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif depth < 20 and isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, str(key), depth + 1)
    elif depth < 20 and isinstance(content, (list, tuple)):
        for value in content:
            yield from _tensors(value, name, depth + 1)


def read_pickle(path: Path) -> dict[str, Tensor]:
    check_zip(path, path)
    try:
        with warnings.catch_warnings():
            # torch warns about the pickle protocol of files that it then refuses.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if called := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path}: refused, this pickle would run {called[1]}; save it again as a plain "
                "state dict of tensors"
            ) from None
        raise WeightsError(f"{path}: damaged, or not a file of tensors") from None
    except Exception:
        # What torch's readers raise for truncated archives and for files of other kinds.
        raise WeightsError(f"{path}: damaged, truncated, or not a file of tensors") from None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise WeightsError(f"{path}: {name} is a {kind}, not a tensor; give a state dict")
    check_storage(content, path)
    return {str(name): value for name, value in content.items()}
