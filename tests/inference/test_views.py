"""Views and tiles against their definition, written out with torch's plain functions."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import fastass
from fastass.errors import UserError
from fastass.evaluation.evaluate import confusion_of
from fastass.inference.views import Views, labels, probabilities, tiles
from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.loaders.evaluation import EvalLoader


@pytest.fixture(scope="module")
def network(trained: Path) -> fastass.Segmenter:
    """With random scores: three steps leave them almost equal."""
    network = fastass.load(trained, device="cpu")
    torch.manual_seed(0)
    for branch in network.generator.classifier.branches:
        torch.nn.init.normal_(branch.get_parameter("weight"), std=0.3)
    return network


def plain(network: fastass.Segmenter, image: Tensor, size: tuple[int, int]) -> Tensor:
    """softmax of the upsampled scores, in the definition's words."""
    with torch.no_grad():
        scores = network.generator.eval()(image).scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=True).softmax(1)


def test_scales_and_flips_average_probabilities(network: fastass.Segmenter) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 3, 50, 60)  # read at scale 1.25: 40×48 is scale 1
    found = probabilities(
        network.generator, images, (33, 47), Views((0.75, 1.0, 1.25), flip=True), network.runtime
    )
    expected = []
    for height, width in ((30, 36), (40, 48), (50, 60)):
        view = F.interpolate(images, size=(height, width), mode="bicubic", antialias=True)
        expected.append(plain(network, view, (33, 47)))
        expected.append(plain(network, view.flip(3), (33, 47)).flip(3))
    torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-4)
    assert (found - expected[0]).abs().max() > 0.01  # the views do differ


@pytest.mark.parametrize(
    ("scales", "size", "at"),
    [
        ((1.0,), (65, 35), (65, 35)),
        ((0.5, 1.25), (64, 36), (80, 45)),  # that of the largest scale
        ((0.5,), (66, 34), (33, 17)),
        ((0.3,), (11, 12), (3, 4)),  # 3.3 and 3.6, rounded
        ((0.01,), (65, 35), (1, 1)),  # at least a pixel
        ((0.1,), (10, 30), (1, 3)),
    ],
)
def test_an_image_is_read_at_the_largest_scale(
    scales: tuple[float, ...], size: tuple[int, int], at: tuple[int, int]
) -> None:
    assert Views(scales).read_at(size) == at


@pytest.mark.parametrize(
    ("scales", "sizes"),
    [
        ((0.75, 1.0, 1.25), [(30, 36), (40, 48), (50, 60)]),
        ((0.5, 1.0), [(25, 30), (50, 60)]),
        ((0.33, 1.0), [(16, 20), (50, 60)]),  # 16.5 and 19.8, rounded
        ((2.0,), [(50, 60)]),
        ((0.01, 1.0), [(1, 1), (50, 60)]),
    ],
)
def test_each_view_has_the_size_of_its_scale(
    network: fastass.Segmenter, scales: tuple[float, ...], sizes: list[tuple[int, int]]
) -> None:
    """The image as it was read has the largest scale; the others are that share of it."""
    seen: list[tuple[int, ...]] = []
    hook = network.generator.register_forward_pre_hook(
        lambda _, images: seen.append(tuple(images[0].shape[2:]))
    )
    try:
        images = torch.randn(1, 3, 50, 60)
        P = probabilities(network.generator, images, (33, 47), Views(scales), network.runtime)
    finally:
        hook.remove()
    assert seen == sizes
    assert P.shape == (1, 19, 33, 47)
    torch.testing.assert_close(P.sum(1), torch.ones(1, 33, 47))


@pytest.mark.parametrize("size", [(50, 60), (25, 30)])
def test_tiles_average_probabilities(network: fastass.Segmenter, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 50, 60)
    views = Views(tile=(32, 24), overlap=8)
    found = probabilities(network.generator, image, size, views, network.runtime)
    total, count = torch.zeros(1, 19, 50, 60), torch.zeros(50, 60)
    for top in (0, 13, 26):
        for left in (0, 14, 28):
            piece = image[:, :, top : top + 24, left : left + 32]
            total[:, :, top : top + 24, left : left + 32] += plain(network, piece, (24, 32))
            count[top : top + 24, left : left + 32] += 1
    expected = total / count
    if size != (50, 60):
        expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", range(1, 40, 3))
@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 3), (8, 7), (1, 0), (50, 49)])
def test_tiles_cover_everything_and_overlap(length: int, tile: int, overlap: int) -> None:
    spans = [columns for _, columns in tiles((1, length), (tile, 1), 0 if tile == 1 else overlap)]
    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert {s.stop - s.start for s in spans} == {min(tile, length)}
    for one, two in itertools.pairwise(spans):
        assert one.stop - two.start >= overlap


def test_one_view_is_the_argmax_of_upsampled_scores(network: fastass.Segmenter) -> None:
    image = torch.randn(2, 3, 32, 64)
    found = labels(network.generator, image, (40, 70), Views(), network.runtime)
    expected = plain(network, image, (40, 70)).argmax(1)
    assert (found == expected).float().mean() > 0.999  # ties by rounding apart
    assert len(found.unique()) > 1


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(network: fastass.Segmenter, training: bool) -> None:
    network.generator.train(training)
    before = {k: v.clone() for k, v in network.generator.state_dict().items()}
    probabilities(network.generator, torch.randn(1, 3, 16, 16), (16, 16), Views(), network.runtime)
    assert network.generator.training is training
    for name, value in network.generator.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("views", [Views(), Views((0.5, 1.0), flip=True)])
def test_evaluation_counts_what_prediction_gives(
    network: fastass.Segmenter, city: Path, views: Views
) -> None:
    data = open_dataset(city / "cityscapes", split="val")
    feed = EvalLoader(
        data, views.read_at(network.prepare.size), network.prepare.normalize, workers=0
    )
    counts = confusion_of(network.generator, feed, network.runtime, views=views)
    expected = np.zeros((19, 19), np.int64)
    for sample in data.samples:
        truth = read_label(data, sample)
        predicted = network.labels(read_image(sample), views)
        valid = truth != 255
        np.add.at(expected, (truth[valid], predicted[valid]), 1)
    different = np.abs(counts.numpy() - expected).sum() / 2
    assert different <= 1e-4 * expected.sum()  # ties by rounding apart


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": ()}, "scales: expected factors above 0"),
        ({"scales": (1.0, 0.0)}, "scales: expected factors above 0"),
        ({"overlap": 4}, "give --tile"),
        ({"tile": (8, 8), "overlap": 8}, "less than the 8x8 tile"),
        ({"tile": (8, 0)}, "tile: expected"),
    ],
)
def test_views_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Views(**values)  # type: ignore[arg-type]


def test_a_large_image_in_tiles_keeps_its_size(network: fastass.Segmenter) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    views = Views(tile=(64, 32), overlap=8)
    assert network.read(pixels, views).shape == (1, 3, 70, 130)
    labels = network.predict(Image.fromarray(pixels), tile=(64, 32), overlap=8)
    assert isinstance(labels, np.ndarray)
    assert labels.shape == (70, 130)
    assert network.read(pixels, views, (65, 35)).shape == (1, 3, 35, 65)
