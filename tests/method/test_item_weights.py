"""The weight of each batch, from items counted one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.config.schema import Config, DiscriminatorConfig
from fastass.method.adaptation import Adaptation, method_spec
from fastass.method.item_weights import feature_size, item_weights
from fastass.method.terms import TERMS
from fastass.models.config import ModelConfig
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.step import build

CLASSES, IGNORE = 5, 255
SIZE = (40, 90)  # H,W: features of 6×12
PIXELS, SEMANTIC, IMAGES = "pixels", "semantic", "images"


def module(method: str, labelled: int = 4) -> Adaptation:
    config = Config(
        model=ModelConfig(backbone="tiny", width=16, num_classes=CLASSES),
        discriminator=DiscriminatorConfig(width=4, hidden=16),
    )
    return build(config, method_spec(method, labelled))  # type: ignore[arg-type]


def batch(labels: Tensor | None, count: int = 1, dtype: torch.dtype = torch.float32) -> Batch:
    return Batch(
        torch.zeros(count if labels is None else len(labels), 3, *SIZE, dtype=dtype), labels
    )


def truth(seed: int, count: int, ignored: float) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES - 1, (count, *SIZE), generator=g)  # the last class nowhere
    labels[torch.rand(labels.shape, generator=g) < ignored] = IGNORE
    labels[0, :, 45:] = 0  # so that fewer classes are present in image 0
    return labels.to(torch.uint8)


def items(method: str, labels: Tensor) -> dict[str, int]:
    """Counted one by one; the positions of the feature map as torch's `nearest` takes them."""
    cells = F.interpolate(labels[:, None].float(), (6, 12), mode="nearest")[:, 0].long().tolist()
    valid = [[k for row in image for k in row if k != IGNORE] for image in cells]
    semantic = {
        "ga+csa": sum(len(image) for image in valid),
        "ga+fcsa": sum(len(set(image)) for image in valid),
    }
    return {
        PIXELS: sum(k != IGNORE for k in labels.flatten().tolist()),
        SEMANTIC: semantic.get(method, 0),
        IMAGES: len(labels),
    }


@pytest.mark.parametrize("method", ["ga", "ga+fcsa", "ga+csa"])
def test_a_batch_weighs_as_many_items_as_it_has(method: str) -> None:
    source = [truth(1, 2, 0.3), truth(2, 3, 0.9)]
    labelled = [truth(3, 1, 0.5), truth(4, 2, 0.99)]
    batches = [
        StepBatch(batch(source[0]), batch(labelled[0]), batch(None, 1)),
        StepBatch(batch(source[1]), batch(labelled[1]), batch(None, 3)),
    ]
    weights = item_weights(module(method), batches, SINGLE_PROCESS)
    assert weights.shape == (2, len(TERMS))
    assert weights.dtype == torch.float32
    for column, (name, term) in enumerate(TERMS.items()):
        if term.stream == "unlabelled":
            counts = [1, 3]
        else:
            streams = {"source": source, "labelled": labelled, "mixed": []}[term.stream]
            counts = [items(method, labels)[term.counts] for labels in streams] or [0, 0]
        wanted = [n / max(1, sum(counts)) for n in counts]
        assert weights[:, column].tolist() == pytest.approx(wanted, abs=1e-6), name
    if "+" in method:
        assert not torch.equal(weights[:, 0], weights[:, [*TERMS].index("sadv")])


def test_present_classes_are_counted_per_image() -> None:
    """FCSA: two images with classes {0, 1} and {1}, and one with {3}: 3 of 4 pairs and 1 of 4."""
    labels = torch.full((2, *SIZE), 1, dtype=torch.uint8)
    labels[0, :, :45] = 0
    batches = [
        StepBatch(labelled=batch(labels)),
        StepBatch(labelled=batch(torch.full((1, *SIZE), 3, dtype=torch.uint8))),
    ]
    weights = item_weights(module("ga+fcsa"), batches, SINGLE_PROCESS)
    assert weights[:, [*TERMS].index("sd_target")].tolist() == [0.75, 0.25]


def test_labels_of_no_class_are_no_items() -> None:
    """FCSA: only train ids below the number of classes are classes."""
    labels = torch.full((1, *SIZE), CLASSES - 1, dtype=torch.uint8)
    beyond = torch.full((1, *SIZE), CLASSES, dtype=torch.uint8)
    batches = [StepBatch(labelled=batch(labels)), StepBatch(labelled=batch(beyond))]
    weights = item_weights(module("ga+fcsa"), batches, SINGLE_PROCESS)
    assert weights[:, [*TERMS].index("sd_target")].tolist() == [1, 0]


def test_a_single_item_has_the_whole_weight() -> None:
    labels = torch.full((1, *SIZE), IGNORE, dtype=torch.uint8)
    nothing = labels.clone()
    labels[0, 0, 0] = 2  # also the label of the first feature position
    for method in ("ga+fcsa", "ga+csa"):
        batches = [StepBatch(labelled=batch(labels)), StepBatch(labelled=batch(nothing))]
        weights = item_weights(module(method), batches, SINGLE_PROCESS)
        for name in ("seg_target", "sd_target"):
            assert weights[:, [*TERMS].index(name)].tolist() == [1, 0], (method, name)
        without = item_weights(module(method), batches[1:], SINGLE_PROCESS)
        assert without.count_nonzero() == 0


def test_the_items_of_all_ranks_are_counted() -> None:
    class Two(World):
        def sum(self, tensor: Tensor) -> Tensor:
            return tensor * 2  # the other rank has as many

    batches = [StepBatch(source=batch(truth(1, 2, 0.3), dtype=torch.float64))]
    weights = item_weights(module("ga+csa"), batches, Two())
    assert weights.dtype == torch.float64
    assert {w for w in weights.flatten().tolist() if w} == {0.5}


@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "vgg16"])
@pytest.mark.parametrize("size", [SIZE, (64, 33)])
def test_the_size_of_the_features(backbone: str, size: tuple[int, int]) -> None:
    model = ModelConfig(backbone=backbone, width=16, num_classes=CLASSES)
    built = build(Config(model=model), method_spec("oracle", 4)).generator.eval()
    with torch.no_grad():
        features = built(torch.zeros(1, 3, *size)).features
    assert feature_size(model, size) == tuple(features.shape[2:])
