"""Find the damaged images of a data set before a run meets them."""

from collections.abc import Callable, Container

from fastass.pipelines.class_histograms.label_values import has_label
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.dataset import AnyDataset
from fastass.pipelines.read_each import read_each


def check_images(
    dataset: AnyDataset,
    channels: int = 3,
    *,
    bad_labels: Container[int] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, str]:
    """Decode every image as training does, and its label for the size: sample number → what is bad.

    channels: of the images. bad_labels: samples whose labels are known to be bad and are not read
    again. progress: called with (images done, images).
    """
    reader = open_reader(dataset, channels)

    def check(i: int) -> None:
        size = reader.image(i).size
        if has_label(dataset, i) and i not in bad_labels:
            reader.label(i, size)

    _, bad = read_each(range(len(dataset)), check, progress)
    return bad
