from pathlib import Path

import dataset_files as files
import numpy as np
import pytest

from fastass.bench.input.baselines import AdaptSegNetBaseline, PackedByHand
from fastass.bench.input.loaders import BASELINE, Rate, format_rates, measure
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.pack import pack

SIZE = (48, 32)


def test_baselines_make_the_same_batches(tmp_path: Path) -> None:
    """A comparison is fair only where both sides compute the same."""
    data = open_dataset(files.gta5(tmp_path / "gta5", 4, (97, 63)))
    pack(data, tmp_path / "packed", SIZE, workers=1, image="png")
    packed = open_packed(tmp_path / "packed")
    for dataset, baseline in (
        (data, AdaptSegNetBaseline(data, SIZE)),
        (packed, PackedByHand(packed)),
    ):
        spec = StreamSpec(dataset, 4, SIZE, augment=Augment(mirror=False))
        with PillowLoader({"source": spec}, 0, workers=0) as feed:
            batch = next(feed.batches()).source
        assert batch is not None
        assert batch.labels is not None
        names = [sample.name for sample in data.samples]
        for image, label, name in zip(batch.images, batch.labels, batch.names, strict=True):
            pixels, truth = baseline[names.index(name)]
            np.testing.assert_allclose(pixels, image, atol=1e-4)
            np.testing.assert_array_equal(truth, label)


def test_measure(tmp_path: Path) -> None:
    data = open_dataset(files.gta5(tmp_path / "gta5", 4, (97, 63)))
    seen: list[str] = []
    rates = measure(
        data,
        None,
        SIZE,
        batch=2,
        rounds=1,
        batches=3,
        loaders=("pillow",),
        progress=seen.append,
    )
    assert seen == [rate.loader for rate in rates]
    assert rates[0].loader == BASELINE
    assert rates[0].speedup == 1
    assert len(rates) == 2
    for rate in rates:
        assert rate.images_per_second > 0
        assert rate.cpu_ms >= 0
        assert rate.bytes_per_second > 0


def test_measure_needs_data() -> None:
    with pytest.raises(DataError, match="needs a data set"):
        measure(None, None, SIZE)


def test_table() -> None:
    rates = [Rate("a", 10.0, 2.0, 3e6, None), Rate("bcd", 100.0, 1.0, 3e6, 10.0)]
    lines = format_rates(rates).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3].replace("|", "").split() == ["bcd", "100.0", "1.0", "3.0", "10.0×"]
