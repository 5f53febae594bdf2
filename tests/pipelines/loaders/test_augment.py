import numpy as np
import pytest
from dataset_files import blocks
from PIL import Image

from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import (
    Augment,
    AugmentParams,
    color_matrix,
    draw_params,
    region_box,
    resize_label,
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1914, 1052), (1280, 720)),
        ((2048, 1024), (1024, 512)),
        ((1280, 760), (1280, 720)),
        ((97, 53), (64, 32)),
        ((41, 23), (97, 53)),
        ((7, 5), (7, 3)),
    ],
)
def test_nearest_is_pillows(old: tuple[int, int], new: tuple[int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 255, (old[1], old[0]), np.uint8)
    pillow = Image.fromarray(label).resize(new, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_label(label, AugmentParams(), new), np.asarray(pillow))
    np.testing.assert_array_equal(
        resize_label(label, AugmentParams(mirror=True), new), np.asarray(pillow)[:, ::-1]
    )


def test_region_is_pillows_box() -> None:
    label = np.random.default_rng(0).integers(0, 255, (53, 97), np.uint8)
    for position in range(50):
        drawn = draw_params(Augment(scale=(1.0, 2.5)), (32, 16), 0, "source", position)
        box = region_box(drawn, (97, 53))
        pillow = np.asarray(Image.fromarray(label).resize((32, 16), Image.Resampling.NEAREST, box))
        ours = resize_label(label, drawn, (32, 16))
        np.testing.assert_array_equal(ours[:, ::-1] if drawn.mirror else ours, pillow)


def test_mirror_without_a_resize() -> None:
    label = blocks(6, 8, 9)
    np.testing.assert_array_equal(
        resize_label(label, AugmentParams(mirror=True), (8, 6)), label[:, ::-1]
    )
    whole = AugmentParams(mirror=True, region=(0.0, 0.0, 1.0, 1.0))
    np.testing.assert_array_equal(resize_label(label, whole, (8, 6)), label[:, ::-1])


def test_draws_are_pure_and_in_range() -> None:
    augment = Augment(scale=(0.5, 2.0), resize=(256, 128), jitter=0.3, hue=20, blur=1.5)
    draws = [draw_params(augment, (128, 64), 1, "source", p) for p in range(500)]
    assert draws == [draw_params(augment, (128, 64), 1, "source", p) for p in range(500)]
    assert 0.4 < np.mean([d.mirror for d in draws]) < 0.6
    assert 0.4 < np.mean([d.sigma > 0 for d in draws]) < 0.6
    assert max(d.sigma for d in draws) < 1.5
    regions = np.array([d.region for d in draws])
    assert (regions >= 0).all()
    assert (regions[:, :2] + regions[:, 2:] <= 1 + 1e-12).all()
    np.testing.assert_allclose(regions[:, 2], regions[:, 3])  # the aspect of `resize` is kept
    assert regions[:, 2].min() < 0.3
    assert regions[:, 2].max() > 0.9


def test_color_matrix() -> None:
    identity = np.array(color_matrix(1, 1, 1, 0)).reshape(3, 4)
    np.testing.assert_allclose(identity, np.eye(3, 4), atol=1e-6)
    grey = np.array(color_matrix(1, 1, 0, 0)).reshape(3, 4)[:, :3]
    np.testing.assert_allclose(grey, np.tile([0.299, 0.587, 0.114], (3, 1)), atol=2e-3)
    contrast = np.array(color_matrix(1, 0.5, 1, 77)).reshape(3, 4)
    np.testing.assert_allclose(contrast @ [128, 128, 128, 1], 128, rtol=1e-3)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (Augment(scale=(0.9, 2.0)), "scale 0.9 makes 64x32 smaller than the crop 64x32"),
        (Augment(scale=(2.0, 1.0)), "scale must be"),
        (Augment(resize=(64, 32)), "resize .* needs scale"),
        (Augment(jitter=1.0), "jitter must be"),
        (Augment(hue=200), "hue must be"),
        (Augment(blur=-1), "blur must be"),
    ],
)
def test_bad_values(augment: Augment, message: str) -> None:
    with pytest.raises(DataError, match=message):
        augment.check((64, 32))
