"""Ranks that start different runs are found before anything is trained."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ranks import free_port
from tiny_runs import city, train

from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.pipelines.datasets.layouts import Dataset
from fastass.runtime.process_group import World
from fastass.tracking.progress import Silent
from fastass.training.data import TrainingData
from fastass.training.open_data import open_training_data
from fastass.training.ranks.agreement import (
    check_agreement,
    check_enough_images,
    contents,
    difference,
    settings,
)
from fastass.training.run import fingerprints


def test_the_value_of_most_ranks_is_right() -> None:
    ranks = [{"torch": "2.11"}, {"torch": "2.13"}, {"torch": "2.13"}]
    assert difference(ranks, 0) == ("torch", "2.11", 1, "2.13")
    assert difference(ranks, 1) is difference(ranks, 2) is None


def test_of_two_ranks_the_first_is_right_and_a_missing_value_is_one() -> None:
    ranks = [{"torch": "2.13", "dali": "1.50"}, {"torch": "2.13"}]
    assert difference(ranks, 0) is None
    assert difference(ranks, 1) == ("dali", "missing", 0, "1.50")


def test_one_process_asks_for_no_fingerprint() -> None:
    check_agreement(World(), lambda: pytest.fail("was called"), "")


def test_what_ranks_may_have_of_their_own() -> None:
    """Files may lie elsewhere on each node; a learning rate may not differ."""
    one, other = Config(), Config(init="there.pth").with_runtime(device="cuda:1")
    other = replace(other, data=replace(other.data, source="elsewhere", workers=7))
    assert settings(one) == settings(other)
    faster = replace(one, optim=replace(one.optim, lr=1.0))
    assert difference([settings(one), settings(faster)], 1) == ("optim.lr", "1.0", 0, "0.00025")
    assert difference([settings(one, **{"--resume": r}) for r in (True, False)], 1) is not None


@pytest.fixture(scope="module")
def toycity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return city(tmp_path_factory.mktemp("city"))


def opened(root: Path) -> tuple[TrainingData, Config]:
    config = Config(labelled=1)
    small = replace(
        config.data, source=str(root / "gta5"), target=str(root / "cityscapes"), val=None
    )
    return open_training_data(replace(config, data=small), Silent())


def test_other_names_and_other_contents_are_noticed(toycity: Path, tmp_path: Path) -> None:
    data, config = opened(toycity)
    right = contents(data, fingerprints(data), config)
    assert right == contents(data, fingerprints(data), config)

    assert isinstance(data.source, Dataset)
    fewer = replace(data, source=replace(data.source, samples=data.source.samples[1:]))
    found = difference([right, contents(fewer, fingerprints(fewer), config)], 1)
    assert found is not None
    assert found.name == "source data"
    assert found.value.startswith("2 images")

    changed = tmp_path / "changed.png"
    changed.write_bytes(Path(str(data.source.samples[0].image)).read_bytes()[:-1] + b"x")
    samples = (replace(data.source.samples[0], image=changed), *data.source.samples[1:])
    other = replace(data, source=replace(data.source, samples=samples))
    found = difference([right, contents(other, fingerprints(other), config)], 1)
    assert found is not None
    assert found.name == "source data"

    labelled = replace(data, labelled=(1 - data.labelled[0],))
    found = difference([right, contents(labelled, fingerprints(labelled), config)], 1)
    assert found is not None
    assert found.name == "labelled images"


def test_a_rank_without_a_validation_image_is_refused(toycity: Path) -> None:
    data, _ = opened(toycity)
    check_enough_images(World(1, 2), data)
    with pytest.raises(UserError, match=r"2 validation images for 3 ranks: rank 2 would have none"):
        check_enough_images(World(0, 3), data)


@pytest.mark.slow
def test_one_line_on_the_rank_that_differs(toycity: Path, tmp_path: Path) -> None:
    """Each rank is started by hand, as a cluster's scripts may do."""
    out = tmp_path / "run"
    other = tmp_path / "other"
    city(other)
    for file in (other / "gta5").rglob("00003.png"):  # an image and its label
        file.unlink()
    for more, said in (
        (["--lr", "1.0"], "rank 1: differs from rank 0: optim.lr is 1.0 here and 0."),
        (
            ["--data-source", str(other / "gta5")],
            "rank 1: differs from rank 0: source data is 2 im",
        ),
    ):
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "fastass", *train(toycity, out), *extra],
                env=os.environ | address | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, extra in enumerate(([], more))
        ]
        outputs = [rank.communicate(timeout=90)[0] for rank in ranks]
        assert all(rank.returncode for rank in ranks)
        assert said in outputs[1], outputs
        assert "fastass:" not in outputs[0], outputs
        assert not out.exists()
