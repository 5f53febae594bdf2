"""The graph that is exported, and its check.

    image uint8 [B,N,H,W], RGB first  →  scores float32 [B,C,H,W], at the size of the image

Channel order, mean, scale and upsampling are part of the graph, so a user can't get them wrong.
Batch, height and width are free; the training size works best. The largest score of a pixel is its
class.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.errors import ExportFailure
from fastass.inference.segmenter import Segmenter
from fastass.models.deeplab import DeepLab
from fastass.pipelines.loaders.normalization import Normalization

INPUT = "image: uint8 [batch, 3, height, width], RGB levels 0-255, at least 32x32"
OUTPUT = "scores: float32 [batch, classes, height, width], logits; the largest is the class"
FREE = {0: "batch", 2: "height", 3: "width"}
TOLERANCE = 1e-4  # of the largest score


class Graph(nn.Module):
    """The module that is exported."""

    mean: Tensor
    scale: Tensor

    def __init__(self, generator: DeepLab, how: Normalization) -> None:
        super().__init__()
        self.generator = generator
        self.channels = how.channels
        self.reverse = how.order == "BGR"
        self.register_buffer("mean", torch.tensor(how.mean)[:, None, None])
        self.register_buffer("scale", torch.tensor(how.scale)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        levels = image.float()
        if self.reverse and self.channels == 3:
            levels = levels.flip(1)
        elif self.reverse:
            levels = torch.cat([levels[:, :3].flip(1), levels[:, 3:]], 1)
        scores = self.generator((levels - self.mean) * self.scale).scores
        corners = self.generator.config.align_corners
        return F.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=corners)


def graph_of(segmenter: Segmenter) -> Graph:
    """The graph of a network, in evaluation mode."""
    return Graph(segmenter.generator, segmenter.prepare.how).eval()


def example(channels: int) -> Tensor:
    """An input for tracing; no two of its sizes are equal."""
    return torch.zeros(2, channels, 96, 160, dtype=torch.uint8)


def input_of(segmenter: Segmenter) -> str:
    """The input in words."""
    channels = segmenter.prepare.how.channels
    if channels == 3:
        return INPUT
    return (
        f"image: uint8 [batch, {channels}, height, width], red, green, blue and the further "
        "channels, levels 0-255, at least 32x32"
    )


@torch.no_grad()
def compare(graph: Graph, exported: Callable[[Tensor], Tensor], size: tuple[int, int]) -> str:
    """Compare the exported network with the graph, at the training size (W,H) and at others.

    → what was compared. Raises ExportFailure for a difference above `TOLERANCE` of the largest
    score.
    """
    worst, shapes, same, pixels = 0.0, [], 0, 0
    for image in _images(size, graph.channels):
        expected, actual = graph(image), exported(image)
        shape = "×".join(map(str, (image.shape[0], *image.shape[2:])))
        if expected.shape != actual.shape:
            raise ExportFailure(
                f"at {shape} the exported network gives {tuple(actual.shape)}, "
                f"not {tuple(expected.shape)}"
            )
        error = float((expected - actual).abs().max() / expected.abs().max())
        if not error <= TOLERANCE:
            raise ExportFailure(
                f"at {shape} the exported network differs by {error:.1e} of the largest score; "
                f"allowed: {TOLERANCE:.0e}"
            )
        worst = max(worst, error)
        shapes.append(shape)
        same += int((expected.argmax(1) == actual.argmax(1)).sum())
        pixels += expected[:, 0].numel()
    return (
        f"batch×height×width {', '.join(shapes)}: largest difference {worst:.1e} of the largest "
        f"score, {100 * same / pixels:.3f} % of the pixels get the same class"
    )


def _images(size: tuple[int, int], n: int) -> Iterator[Tensor]:
    width, height = size
    draws = torch.Generator().manual_seed(0)
    for shape in ((1, n, height, width), (2, n, height // 2 + 1, width // 2 + 2), (1, n, 75, 122)):
        # Blocks of 8 pixels: noise alone would average to grey.
        blocks_shape = (*shape[:2], shape[2] // 8 + 1, shape[3] // 8 + 1)
        coarse = torch.randint(0, 256, blocks_shape, generator=draws)
        blocks = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
        yield blocks[:, :, : shape[2], : shape[3]].to(torch.uint8).contiguous()
