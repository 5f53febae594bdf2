"""Sets up OpenMP before any test loads torch; a trained run for all tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastass  # before torch


def pytest_configure() -> None:
    fastass.wait_passively()  # before any test imports torch


@pytest.fixture(autouse=True)
def kernels_restored() -> Iterator[None]:
    """A test that chooses other operators chooses them for itself. Imports nothing."""
    yield
    if "fastass.kernels" in sys.modules:
        sys.modules["fastass.kernels"].use("auto")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN: whatever an operator forgets to write shows."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For all of a module's runs, those of its fixtures too: sums of two threads are rounded
    otherwise on some processors, and these runs are compared bit for bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's user cache, empty. Not for every test: matplotlib keeps its fonts there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return tmp_path / "user-cache"


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ToyCity of 3 source, 2 target and 2 validation images."""
    from fastass.pipelines.toycity import generate

    root = tmp_path_factory.mktemp("city")
    generate(root, source=3, target=2, val=2, workers=1)
    return root


@pytest.fixture(scope="session")
def trained(city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of three steps on `city`. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "small"
    data = {"data_source": str(city / "gta5"), "data_target": str(city / "cityscapes")}
    from tiny_runs import SMALL

    fastass.train("toycity", out=out, plain=True, **{**SMALL, **data})
    return out
