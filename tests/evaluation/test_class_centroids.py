import math
from pathlib import Path

import dataset_files as files
import pytest
import torch

from fastass.config.schema import RuntimeConfig
from fastass.errors import TrainingFailure
from fastass.evaluation.class_centroids import (
    ClassMeans,
    class_means,
    distances,
    project,
    record,
    spread_feed,
)
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.loaders.evaluation import EvalBatch
from fastass.runtime.device import setup_runtime

RUNTIME = setup_runtime(RuntimeConfig(device="cpu", kernels="reference"))


def domain(*rows: tuple[float, ...]) -> ClassMeans:
    means = torch.tensor(rows, dtype=torch.float64)
    return ClassMeans(means, torch.ones(len(rows), dtype=torch.int64))


def test_mean_over_all_pixels_of_all_images() -> None:
    torch.manual_seed(0)
    generator = build_deeplab(ModelConfig(backbone="tiny", num_classes=4, width=16)).train()
    images = torch.randn(3, 3, 32, 48).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 3, (3, 32, 48), dtype=torch.uint8)
    labels[1] = 255
    batches = [EvalBatch(images[i : i + 1], labels[i : i + 1], (48, 32), ("x",)) for i in range(3)]
    found = class_means(generator, batches, RUNTIME)
    assert generator.training
    with torch.no_grad():
        features = generator.eval()(images).features.double()
    small = torch.nn.functional.interpolate(labels[:, None].float(), features.shape[2:])[:, 0]
    pixels, flat = features.permute(0, 2, 3, 1).flatten(0, 2), small.flatten()
    for k in range(3):
        assert found.counts[k] == (flat == k).sum()
        torch.testing.assert_close(found.means[k], pixels[flat == k].mean(0), rtol=1e-4, atol=1e-6)
    assert found.counts[3] == 0
    assert found.means[3].isnan().all()


def test_features_that_are_not_finite_are_named() -> None:
    """A network that has diverged still gives labels, and means that no picture can show."""
    generator = build_deeplab(ModelConfig(backbone="tiny", num_classes=4, width=16))
    images = torch.full((1, 3, 32, 48), 3e38).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(1, 32, 48, dtype=torch.uint8)
    batch = EvalBatch(images, labels, (48, 32), ("x",))
    with pytest.raises(TrainingFailure, match="not finite: it has diverged; lower --lr"):
        class_means(generator, [batch], RUNTIME)


def test_distances_are_relative_to_those_between_classes() -> None:
    source = domain((0.0, 0.0), (4.0, 0.0), (math.nan, math.nan))
    target = domain((0.0, 1.0), (4.0, 1.0), (0.0, 0.0))
    # Between classes: 4 in the source; 4, 1 and √17 in the target.
    unit = (4 + (4 + 1 + math.sqrt(17)) / 3) / 2
    far = distances(source, target)
    assert far[:2].tolist() == pytest.approx([1 / unit, 1 / unit])
    assert far[2].isnan()
    scaled = [ClassMeans(3 * d.means, d.counts) for d in (source, target)]
    torch.testing.assert_close(distances(*scaled), far, equal_nan=True)


def test_the_plane_shows_what_lies_in_a_plane() -> None:
    source = domain((0, 0, 0, 7), (3, 0, 0, 7), (0, 2, 0, 7))
    target = domain((1, 0, 0, 7), (3, 1, 0, 7), (1, 2, 0, 7))
    (a, b), share = project(source, target)
    assert share == pytest.approx(1)
    torch.testing.assert_close((a - b).norm(dim=1), (source.means - target.means).norm(dim=1))


def test_record_leaves_out_absent_classes() -> None:
    source = domain((0.0, 0.0), (4.0, 0.0), (math.nan, math.nan))
    target = domain((0.0, 1.0), (4.0, 1.0), (0.0, 0.0))
    found = record(["road", "sky", "train"], source, target)
    assert list(found["classes"]) == ["road", "sky"]
    assert found["mean_distance"] == pytest.approx(found["classes"]["sky"]["distance"])


def test_feed_is_spread_over_the_set(tmp_path: Path) -> None:
    data = open_dataset(files.cityscapes(tmp_path, 7))
    names = [batch.names[0] for batch in spread_feed(data, (32, 16), "bgr", 0, images=3)]
    assert names == [sample.name for sample in data.samples][::2]
    assert len(spread_feed(data, (32, 16), "bgr", 0, images=64)) == 7
