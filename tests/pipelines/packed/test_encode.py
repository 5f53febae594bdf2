import dataset_files as files
import numpy as np
import pytest
from PIL import Image

from fastass.pipelines.packed.encode import resize_bicubic


@pytest.mark.parametrize("size", [(512, 256), (640, 360), (333, 470), (957, 526)])
def test_resize_is_pillows_bicubic(size: tuple[int, int]) -> None:
    image = files.natural(526, 957, 1)
    image[:, 400:] = image[:, 400:] > 128  # hard edges overshoot, and must be clipped
    image[:, 400:] *= 255
    wanted = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    resized = resize_bicubic(image, size)
    assert resized.dtype == np.uint8
    difference = np.abs(resized.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_resize_to_the_same_size_is_exact() -> None:
    image = files.natural(20, 30)
    np.testing.assert_array_equal(resize_bicubic(image, (30, 20)), image)
