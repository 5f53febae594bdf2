"""The random choices for one mixed image: a pure function of (seed, position).

So they need no state in a checkpoint and do not depend on the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastass.pipelines.loaders.order import key

_PARAMETERS = 10


@dataclass(frozen=True)
class MixDraws:
    """Uniform random numbers in [0, 1) for B images; each field is float64 [B], keys [B, C].

    crop_x, crop_y: where the target's size is cropped from the source image.
    source_keys, labelled_keys: of the classes that an image has, those with the smallest keys are
        pasted.
    zoom, zoom_x, zoom_y: of the region that is magnified. color [B, 3]: brightness, contrast,
    saturation. blurred, sigma: of the blur.
    """

    crop_x: np.ndarray
    crop_y: np.ndarray
    zoom: np.ndarray
    zoom_x: np.ndarray
    zoom_y: np.ndarray
    color: np.ndarray
    blurred: np.ndarray
    sigma: np.ndarray
    source_keys: np.ndarray
    labelled_keys: np.ndarray


def draw(seed: int, positions: Sequence[int], classes: int) -> MixDraws:
    """The choices for the mixed images at `positions`, the images' places in the whole training."""
    count = _PARAMETERS + 2 * classes
    u = np.stack([_uniforms(seed, position, count) for position in positions])
    keys = u[:, _PARAMETERS:]
    return MixDraws(
        crop_x=u[:, 0],
        crop_y=u[:, 1],
        zoom=u[:, 2],
        zoom_x=u[:, 3],
        zoom_y=u[:, 4],
        color=u[:, 5:8],
        blurred=u[:, 8],
        sigma=u[:, 9],
        source_keys=keys[:, :classes],
        labelled_keys=keys[:, classes:],
    )


def _uniforms(seed: int, position: int, count: int) -> np.ndarray:
    """From raw Philox words: NumPy may change the output of its distributions."""
    words = np.random.Philox(key=key(seed, "mixed", f"draw {position}")).random_raw(count)
    return (words >> np.uint64(11)) * 2.0**-53
