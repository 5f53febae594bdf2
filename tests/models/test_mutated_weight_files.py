"""Damaged and foreign weight files: tensors, or one line, soon.

The readers of weights: `load_weights` of each format, and a checkpoint's `read_weights` and
`read_state` where nothing has a checksum.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dataset_files import mutated
from processes import growth_below
from safetensors.torch import save_file

from fastass.checkpoint.files import read_state, read_weights
from fastass.errors import UserError
from fastass.models.weights.files import load_weights

SEED, LIMIT = 20_261_128, 10.0  # seconds
TENSORS = {
    "conv.weight": torch.arange(18.0).reshape(2, 1, 3, 3),
    "conv.bias": torch.ones(2, dtype=torch.float16),
    "steps": torch.tensor(7),
}
STATE = {"step": 3, "links": ["best"], "engine": {"rng": torch.arange(9, dtype=torch.uint8)}}


def case(name: str, folder: Path) -> tuple[Path, Callable[[], object]]:
    """A sound file, and what reads it."""
    match name:
        case "safetensors":
            path = folder / "weights.safetensors"
            save_file(TENSORS, path)
            return path, lambda: load_weights(path)
        case "pth" | "pth of old":
            path = folder / "weights.pth"
            torch.save(TENSORS, path, _use_new_zipfile_serialization=name == "pth")
            return path, lambda: load_weights(path)
        case "model of a checkpoint":
            path = folder / "model.safetensors"
            save_file(TENSORS, path)
            return path, lambda: read_weights(folder)
        case _:
            path = folder / "state.pt"
            torch.save(STATE, path)
            return path, lambda: read_state(folder)


def mutate(name: str, folder: Path, rounds: int) -> int:
    """→ how many of the mutated files were refused."""
    path, read = case(name, folder)
    read()
    good, generator, refused = path.read_bytes(), random.Random(SEED), 0
    for _ in range(rounds):
        path.write_bytes(mutated(good, generator))
        begin = time.monotonic()
        with growth_below():
            try:
                read()
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
                assert len(str(error)) < 8000  # noqa: PT017
        assert time.monotonic() - begin < LIMIT
    return refused


CASES = ("safetensors", "pth", "pth of old", "model of a checkpoint", "state of a checkpoint")


@pytest.mark.parametrize("name", CASES)
def test_some_mutated_files(tmp_path: Path, name: str) -> None:
    assert mutate(name, tmp_path, 60) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_mutated_files(tmp_path: Path, name: str) -> None:
    assert mutate(name, tmp_path, 3000) > 500
