"""Rare-class sampling: the formula, and an order that is a pure function of (seed, position)."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest

from fastass.pipelines.class_histograms.histograms import class_histograms
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.loaders.open_loader import open_loader
from fastass.pipelines.loaders.rare_class import (
    MIN_SHARE,
    RareClassOrder,
    class_probabilities,
    rare_class_order,
)
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import PackedDataset, open_packed
from fastass.pipelines.packed.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")

# Pixels of classes 0 … 3 in six samples of 1000 pixels; class 2 occurs nowhere.
PIXELS = np.array(
    [[900, 100, 0, 0], [1000, 0, 0, 0], [999, 1, 0, 0], [990, 0, 0, 0], [500, 0, 0, 0], [0] * 4]
)
PIXELS[3, 3] = 10
IGNORED = 1000 - PIXELS.sum(axis=1)


@pytest.fixture(scope="module")
def gta5(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(files.gta5(tmp_path_factory.mktemp("gta5"), 12, (48, 28)))


def order_of(
    dataset: Dataset | PackedDataset,
    temperature: float = 0.1,
    indices: tuple[int, ...] | None = None,
) -> RareClassOrder:
    found = class_histograms(dataset, indices)
    return rare_class_order(found.pixels, found.ignored, temperature)


def names(
    dataset: Dataset | PackedDataset,
    world: int = 1,
    start: int = 0,
    steps: int = 6,
    loader: str = "pillow",
    indices: tuple[int, ...] | None = None,
) -> list[tuple[str, ...]]:
    """The names of the samples of every global batch of four."""
    order = order_of(dataset, indices=indices)
    stream = StreamSpec(dataset, 4 // world, (48, 28), indices=indices, rare_class=order)
    batches: list[tuple[str, ...]] = [()] * steps
    for rank in range(world):
        with open_loader(loader, {"source": stream}, 3, rank, world) as opened:
            for at, batch in enumerate(islice(opened.batches(start), steps)):
                assert batch.source is not None
                batches[at] += batch.source.names
    return batches


def test_the_formula() -> None:
    shares = (0.9, 0.08, 0.02)
    for temperature in (0.01, 0.1, 1.0):
        weights = [math.exp((1 - share) / temperature) for share in shares]
        wanted = [weight / sum(weights) for weight in weights]
        got = class_probabilities([900, 80, 20], temperature)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_a_class_without_pixels_has_no_share() -> None:
    with_it, without = class_probabilities([900, 0, 100], 0.1), class_probabilities([900, 100], 0.1)
    assert with_it == [without[0], 0.0, without[1]]
    order = rare_class_order(PIXELS, IGNORED, 0.1)
    assert order.classes == (0, 1, 3)


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1e9])
def test_extreme_temperatures(temperature: float) -> None:
    order = rare_class_order(PIXELS, IGNORED, temperature)
    wanted = [1 / 3] * 3 if temperature > 1 else [0, 0, 1]
    np.testing.assert_allclose(order.probabilities, wanted, atol=1e-8)
    assert min(order.sample_at(0, "source", p) for p in range(100)) >= 0


@pytest.mark.parametrize("temperature", [0.2, 0.7])
def test_frequencies_follow_the_formula(temperature: float) -> None:
    """Chi-squared tests of the classes and of the samples; limits at about 1 in 10^6."""
    order = rare_class_order(PIXELS, IGNORED, temperature)
    f = PIXELS.sum(axis=0) / PIXELS.sum()
    weights = np.where(f > 0, np.exp((1 - f) / temperature), 0)
    p = weights / weights.sum()
    contains = [(0, 1, 2, 3, 4), (0, 2), (), (3,)]  # one pixel of 1000 is MIN_SHARE
    wanted = np.zeros(6)
    for c, samples in enumerate(contains):
        for sample in samples:
            wanted[sample] += p[c] / len(samples)
    count = 40000
    seen = Counter(order.sample_at(0, "source", position) for position in range(count))
    got = np.array([seen[i] for i in range(6)])
    assert got[5] == 0
    expected = count * wanted[:5]
    assert ((got[:5] - expected) ** 2 / expected).sum() < 35


def test_a_few_pixels_do_not_count() -> None:
    area = 10_000
    pixels = np.array([[area - 5, 5, 0], [area - 50, 50, 0], [area - 1, 0, 1]])
    order = rare_class_order(pixels, area - pixels.sum(axis=1), 0.1)
    assert MIN_SHARE * area == 10
    assert order.samples == ((0, 1, 2), (1,), (2,))  # of the last class there is nothing better


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no sample has a pixel"):
        rare_class_order(np.zeros((2, 3), np.int64), np.full(2, 50), 0.1)


def test_a_position_alone_decides() -> None:
    order = rare_class_order(PIXELS, IGNORED, 0.3)
    forwards = [order.sample_at(7, "source", p) for p in range(500)]
    backwards = [order.sample_at(7, "source", p) for p in reversed(range(500))]
    assert forwards == backwards[::-1]
    for seed, stream in ((8, "source"), (7, "labelled")):
        assert [order.sample_at(seed, stream, p) for p in range(500)] != forwards


def test_positions_are_independent() -> None:
    order = rare_class_order(PIXELS, IGNORED, 0.3)
    drawn = np.array([order.sample_at(0, "source", p) for p in range(20000)])
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03


def test_the_order_never_changes_with_a_library() -> None:
    """Literal values: a run of last year must see the same samples."""
    order = rare_class_order(PIXELS, IGNORED, 0.3)
    drawn = [order.sample_at(0, "source", p) for p in range(16)]
    assert drawn == [2, 2, 2, 3, 3, 0, 0, 3, 2, 3, 0, 3, 3, 3, 3, 0]


@pytest.mark.parametrize("indices", [None, (9, 2, 5, 7)])
def test_ranks_share_one_global_batch(gta5: Dataset, indices: tuple[int, ...] | None) -> None:
    alone = names(gta5, 1, indices=indices)
    assert names(gta5, 2, indices=indices) == alone
    assert names(gta5, 4, indices=indices) == alone
    if indices is not None:
        used = {gta5.samples[i].name for i in indices}
        assert {name for batch in alone for name in batch} <= used


def test_a_run_can_resume_at_any_step(gta5: Dataset) -> None:
    whole = names(gta5, steps=8)
    for start in (1, 5):
        assert names(gta5, start=start, steps=8 - start) == whole[start:]


def test_a_pack_of_the_same_size_is_drawn_like_the_files(gta5: Dataset, tmp_path: Path) -> None:
    for label in ("raw", "png"):
        pack(gta5, tmp_path / label, (48, 28), label=label, workers=1, records_per_shard=5)
        assert names(open_packed(tmp_path / label)) == names(gta5)
    pack(gta5, tmp_path / "half", (24, 14), workers=1)
    small, whole = order_of(open_packed(tmp_path / "half")), order_of(gta5)
    np.testing.assert_allclose(small.probabilities, whole.probabilities, atol=0.01)


def test_dali_draws_the_same(gta5: Dataset) -> None:
    pytest.importorskip("nvidia.dali")
    assert names(gta5, loader="dali") == names(gta5)
    assert names(gta5, 2, start=3, loader="dali") == names(gta5, start=3)


def test_a_bad_sample_is_replaced_alike(gta5: Dataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    samples = list(gta5.samples)
    order = order_of(gta5)
    drawn = Counter(order.sample_at(0, "source", p) for p in range(16))
    bad = drawn.most_common(1)[0][0]
    samples[bad] = replace(samples[bad], image=broken)
    dataset = replace(gta5, samples=tuple(samples))
    seen = []
    for world in (1, 2):
        stream = StreamSpec(dataset, 4 // world, (48, 28), rare_class=order)
        batches: list[tuple[str, ...]] = [()] * 4
        skipped = 0
        for rank in range(world):
            opened = open_loader("pillow", {"source": stream}, 0, rank, world, on_bad_sample="skip")
            with opened:
                for at, batch in enumerate(islice(opened.batches(), 4)):
                    assert batch.source is not None
                    batches[at] += batch.source.names
                    skipped += batch.source.skipped
        assert skipped == drawn[bad]
        seen.append(batches)
    assert seen[0] == seen[1]
