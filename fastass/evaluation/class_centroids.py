"""The mean feature vector of each class in each domain, and the distances between the domains.

The semantic module of the method pulls the class means of source and target together (Eq. 3–8).
This module measures how close they are. Shapes: C classes, N feature channels.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastass import kernels
from fastass.errors import TrainingFailure
from fastass.models.deeplab import DeepLab
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.loaders.evaluation import EvalBatch, EvalLoader
from fastass.pipelines.loaders.normalization import Normalization
from fastass.pipelines.loaders.spec import OnBadSample
from fastass.pipelines.packed.dataset import PackedDataset
from fastass.runtime.device import Runtime

IMAGES = 64  # per domain: enough for a mean, and takes seconds on a GPU at full size


class ClassMeans(NamedTuple):
    """Of one domain. means: float64 [C,N], NaN for an absent class. counts: feature pixels [C]."""

    means: Tensor
    counts: Tensor


def spread_feed(
    dataset: Dataset | PackedDataset,
    size: tuple[int, int],
    normalize: str | Normalization,
    workers: int,
    images: int = IMAGES,
    on_bad_sample: OnBadSample = "stop",
) -> EvalLoader:
    """A loader of about `images` samples, evenly spread over the data set.

    It has at least `images` samples, if the data set has. on_bad_sample: `skip` leaves damaged
    samples out.
    """
    stride = max(1, len(dataset) // images)
    return EvalLoader(
        dataset, size, normalize, world=stride, workers=workers, on_bad_sample=on_bad_sample
    )


@torch.inference_mode()
def class_means(generator: DeepLab, batches: Iterable[EvalBatch], runtime: Runtime) -> ClassMeans:
    """Mean of F over all pixels of a class in all images (Eq. 4 over a set instead of an image).

    Each feature pixel takes the nearest label. The generator's mode does not change.
    """
    training = generator.training
    generator.eval()
    C, N = generator.config.num_classes, generator.features
    sums = torch.zeros(C, N, dtype=torch.float64, device=runtime.device)
    counts = torch.zeros(C, dtype=torch.int64, device=runtime.device)
    try:
        for batch in batches:
            assert batch.labels is not None
            with runtime.autocast():
                features = generator(batch.images.to(runtime.device)).features
            V, n = kernels.class_mean(features, batch.labels.to(runtime.device), C)
            sums += (V.double() * n[..., None]).sum(0)
            counts += n.sum(0)
    finally:
        generator.train(training)
    if not bool(sums.isfinite().all()):
        raise TrainingFailure(
            "the features of the trained network are not finite: it has diverged; lower --lr"
        )
    means = torch.where(counts[:, None] > 0, sums / counts[:, None], torch.nan)
    return ClassMeans(means.cpu(), counts.cpu())


def distances(source: ClassMeans, target: ClassMeans) -> Tensor:
    """‖source − target‖₂ of every class [C], relative to the distance between different classes.

    The unit is the mean distance between two different classes within a domain, so networks with
    features of different scale can be compared: 0 is aligned, 1 is as far as another class. NaN for
    a class that is missing in a domain.
    """
    unit = torch.stack([between_classes(domain.means) for domain in (source, target)]).mean()
    apart: Tensor = (source.means - target.means).norm(dim=1)
    return apart / unit


def between_classes(means: Tensor) -> Tensor:
    """Mean distance of two different classes' means [C,N]; absent classes are left out."""
    present = means[~means.isnan().any(dim=1)]
    return torch.pdist(present).mean()


def project(*domains: ClassMeans) -> tuple[list[Tensor], float]:
    """The plane of the two largest principal components of all means given.

    → (coordinates [C,2] of each domain, the share of the variance that the plane shows).
    """
    stacked = torch.cat([domain.means for domain in domains])
    present = stacked[~stacked.isnan().any(dim=1)]
    center = present.mean(dim=0)
    _, singular, axes = torch.linalg.svd(present - center, full_matrices=False)
    share = float((singular[:2] ** 2).sum() / (singular**2).sum())
    return [(domain.means - center) @ axes[:2].T for domain in domains], share


def record(names: Sequence[str], source: ClassMeans, target: ClassMeans) -> dict[str, Any]:
    """As JSON, classes by name, without the classes that are missing in a domain."""
    far = distances(source, target)
    (at_source, at_target), share = project(source, target)
    known = [i for i in range(len(names)) if not far[i].isnan()]
    return {
        "explained": share,
        "mean_distance": float(far[known].mean()) if known else None,
        "classes": {
            names[i]: {
                "distance": float(far[i]),
                "source": at_source[i].tolist(),
                "target": at_target[i].tolist(),
                "source_pixels": int(source.counts[i]),
                "target_pixels": int(target.counts[i]),
            }
            for i in known
        },
    }
