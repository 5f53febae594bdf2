"""How levels 0–255 become a network's input, channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fastass.pipelines.errors import DataError


@dataclass(frozen=True)
class Normalization:
    """(level − mean) · scale per channel, with levels 0–255.

    order: of the colours. mean, scale: of these in that order, then of the further channels.
    """

    order: Literal["RGB", "BGR"]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    name: str = ""

    @property
    def channels(self) -> int:
        return len(self.mean)

    @cached_property
    def colors(self) -> "Normalization":
        """Of the three colours alone."""
        return Normalization(self.order, self.mean[:3], self.scale[:3], self.name)

    @property
    def positions(self) -> list[int]:
        """The channels of an RGB… image in the order of the input."""
        return [*("RGB".index(color) for color in self.order), *range(3, self.channels)]


NORMALIZATIONS = {
    # Of the AdaptSegNet baseline and its Caffe weights: BGR levels 0–255 minus ImageNet's mean.
    "bgr": Normalization("BGR", (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "bgr"),
    # Of torchvision's weights: levels / 255, minus mean, divided by standard deviation.
    "imagenet": Normalization(
        "RGB",
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        (1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255)),
        "imagenet",
    ),
}
MIDDLE = 127.5  # the mean of a further channel where none is given


def normalization(how: str | Normalization) -> Normalization:
    """The normalisation of a name; a normalisation as it is. DataError for an unknown name."""
    if isinstance(how, Normalization):
        return how
    if how not in NORMALIZATIONS:
        raise DataError(f"normalize {how!r} is unknown; choose {', '.join(NORMALIZATIONS)}")
    return NORMALIZATIONS[how]


def with_channels(
    name: str, channels: int, means: Sequence[float] = (), deviations: Sequence[float] = ()
) -> Normalization:
    """The normalisation `name` for images of so many channels.

    means, deviations: in levels, of the channels after the third. Not given: 127.5, and the scale
    of the third colour. DataError for a wrong number of them.
    """
    colors = normalization(name)
    more = channels - 3
    for what, values in (("data.extra_mean", means), ("data.extra_std", deviations)):
        if len(values) not in (0, more):
            raise DataError(
                f"{what}: {len(values)} values, and images of {channels} channels have {more} "
                "after red, green and blue"
            )
    mean = (*colors.mean, *(means or (MIDDLE,) * more))
    scales = [1 / value for value in deviations] or [colors.scale[2]] * more
    return Normalization(colors.order, mean, (*colors.scale, *scales), name)
