import numpy as np
import pytest
from dataset_files import blocks
from PIL import Image

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import (
    Augment,
    AugmentParams,
    color_matrix,
    draw_params,
    placement,
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


def test_a_small_image_is_padded() -> None:
    """At half size it lies somewhere in the crop, whole, and the rest is ignored."""
    label = np.arange(64 * 32, dtype=np.int64).reshape(32, 64).astype(np.uint8) % 200
    small = np.asarray(Image.fromarray(label).resize((32, 16), Image.Resampling.NEAREST))
    augment, places = Augment(scale=(0.5, 0.5)), set()
    assert augment.pads((64, 32))
    for position in range(800):
        drawn = draw_params(augment, (64, 32), 0, "source", position)
        left, top, width, height = placement(drawn, (64, 32))
        assert (width, height) == (32, 16)
        places.add((left, top))
        padded = resize_label(label, drawn, (64, 32))
        inside = padded[top : top + 16, left : left + 32]
        np.testing.assert_array_equal(inside[:, ::-1] if drawn.mirror else inside, small)
        assert (padded == IGNORE).sum() == 64 * 32 - 32 * 16
    lefts, tops = {left for left, _ in places}, {top for _, top in places}
    assert (min(lefts), max(lefts), min(tops), max(tops)) == (0, 32, 0, 16)


@pytest.mark.parametrize(
    ("scale", "resize", "pads"),
    [
        (None, None, False),
        ((1.0, 2.0), None, False),
        ((0.999, 2.0), None, False),  # 63.9 × 31.97 is 64 × 32
        ((0.98, 2.0), None, True),
        ((0.5, 2.0), (128, 64), False),
        ((0.5, 2.0), (128, 60), True),
        ((0.01, 0.01), None, True),
    ],
)
def test_padding_is_foreseen(
    scale: tuple[float, float] | None, resize: tuple[int, int] | None, pads: bool
) -> None:
    augment, size = Augment(scale=scale, resize=resize), (64, 32)
    augment.check(size)
    assert augment.pads(size) == pads
    sizes = set()
    for position in range(300):
        left, top, width, height = placement(draw_params(augment, size, 0, "s", position), size)
        assert 0 <= left <= left + width <= 64
        assert 0 <= top <= top + height <= 32
        assert min(width, height) >= 1
        sizes.add((width, height))
    assert (sizes != {size}) == pads


def test_a_wide_image_is_cropped_and_padded() -> None:
    drawn = draw_params(Augment(scale=(1.0, 1.0), resize=(128, 16)), (64, 32), 0, "source", 0)
    left, top, width, height = placement(drawn, (64, 32))
    assert (left, width, height) == (0, 64, 16)
    box = region_box(drawn, (256, 32))
    assert box[2] - box[0] == pytest.approx(128)
    assert (box[1], box[3]) == (0, 32)
    assert 0 <= top <= 16


def test_color_matrix() -> None:
    identity = np.array(color_matrix(1, 1, 1, 0)).reshape(3, 4)
    np.testing.assert_allclose(identity, np.eye(3, 4), atol=1e-6)
    grey = np.array(color_matrix(1, 1, 0, 0)).reshape(3, 4)[:, :3]
    np.testing.assert_allclose(grey, np.tile([0.299, 0.587, 0.114], (3, 1)), atol=2e-3)
    contrast = np.array(color_matrix(1, 0.5, 1, 77)).reshape(3, 4)
    np.testing.assert_allclose(contrast @ [128, 128, 128, 1], 128, rtol=1e-3)


TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.311]])


def factors_of(color: tuple[float, ...]) -> tuple[float, float, float, float]:
    """(brightness, contrast, saturation, hue in degrees) that a colour matrix was made of."""
    matrix, offset = np.split(np.array(color).reshape(3, 4), [3], axis=1)
    contrast = 1 - offset[0, 0] / 128
    yiq = TO_YIQ @ matrix @ np.linalg.inv(TO_YIQ)
    chroma = yiq[1:, 1:] / yiq[0, 0]  # saturation times a rotation
    hue = np.rad2deg(np.arctan2(chroma[1, 0], chroma[0, 0]))
    return yiq[0, 0] / contrast, contrast, np.sqrt(np.linalg.det(chroma)), hue


def test_colour_factors_fill_their_range() -> None:
    """Each in 1 ± jitter, the hue in ± its angle: uniform, and one does not depend on another."""
    augment = Augment(jitter=0.3, hue=20)
    draws = [draw_params(augment, (8, 8), 3, "source", p).color for p in range(1000)]
    factors = np.array([factors_of(color) for color in draws if color is not None])
    assert len(factors) == 1000
    unit = (factors - (1, 1, 1, 0)) / (0.3, 0.3, 0.3, 20)  # uniform in −1…1
    np.testing.assert_allclose(unit.min(axis=0), -1, atol=0.01)
    np.testing.assert_allclose(unit.max(axis=0), 1, atol=0.01)
    assert np.abs(unit).max() < 1.001
    np.testing.assert_allclose(unit.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(np.corrcoef(unit.T), np.eye(4), atol=0.1)


@pytest.mark.parametrize("augment", [Augment(jitter=0.3), Augment(hue=20)])
def test_the_other_factors_stay_at_one(augment: Augment) -> None:
    (color,) = {draw_params(augment, (8, 8), 3, "source", 5).color}
    assert color is not None
    brightness, contrast, saturation, hue = factors_of(color)
    if augment.jitter:
        assert hue == pytest.approx(0, abs=1e-4)
    else:
        assert (brightness, contrast, saturation) == pytest.approx((1, 1, 1), abs=1e-5)
    assert draw_params(Augment(), (8, 8), 3, "source", 5).color is None


def test_regions_fill_the_image_at_every_scale() -> None:
    """A crop of 60×20 from 100×80 times 1…2: all scales, and all places that each leaves."""
    augment = Augment(scale=(1.0, 2.0), resize=(100, 80))
    draws = [draw_params(augment, (60, 20), 3, "source", p).region for p in range(1000)]
    x, y, width, height = np.array([region for region in draws if region is not None]).T
    scale = 60 / (100 * width)
    np.testing.assert_allclose(height, 20 / (80 * scale))
    assert scale.min() == pytest.approx(1, abs=0.01)
    assert scale.max() == pytest.approx(2, abs=0.01)
    for place in (x / (1 - width), y / (1 - height)):
        assert place.min() == pytest.approx(0, abs=0.01)
        assert place.max() == pytest.approx(1, abs=0.01)
        assert place.mean() == pytest.approx(0.5, abs=0.03)


def test_blur_up_to_its_sigma() -> None:
    sigmas = [draw_params(Augment(blur=1.5), (8, 8), 3, "source", p).sigma for p in range(1000)]
    blurred = np.array([sigma for sigma in sigmas if sigma])
    assert 0.45 < len(blurred) / 1000 < 0.55
    assert blurred.min() == pytest.approx(0, abs=0.01)
    assert blurred.max() == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    ("resize", "fits"),
    [
        ((128, 64), True),
        ((127, 64), True),  # 63.5 columns are rounded to 64
        ((126, 64), False),
        ((128, 63), True),
        ((128, 62), False),
        ((126, 62), False),
    ],
)
def test_a_crop_that_does_not_fit_in_width_or_in_height_is_padded(
    resize: tuple[int, int], fits: bool
) -> None:
    assert Augment(scale=(0.5, 2.0), resize=resize).pads((64, 32)) is not fits


def test_values_at_the_ends_of_their_ranges() -> None:
    Augment(jitter=0, hue=0, blur=0).check((64, 32))
    Augment(jitter=0.999, hue=180, blur=10, scale=(1, 1)).check((64, 32))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (Augment(scale=(0.0, 2.0)), "scale must be"),
        (Augment(jitter=-0.1), "jitter must be"),
        (Augment(hue=-1), "hue must be"),
        (Augment(blur=10.5), "blur must be"),
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
