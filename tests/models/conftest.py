"""Fixtures that write weight files, and small weights to write."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_weights import State, adaptsegnet


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(content: object, name: str = "weights.pth", legacy: bool = False) -> Path:
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        return path

    return write


@pytest.fixture(scope="module")
def small() -> State:
    return adaptsegnet("single", "resnet18")
