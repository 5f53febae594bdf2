"""One limit of the number of classes, which every operator and the compile check keep."""

import pytest
import torch

from fastass import kernels
from fastass.kernels.checks import MAX_CLASSES
from fastass.pipelines.datasets import classes


def test_data_sets_and_operators_have_the_same_limit() -> None:
    assert classes.MAX_CLASSES == MAX_CLASSES


def test_every_operator_takes_as_many_and_refuses_one_more() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)

    def call(C: int) -> None:
        scores = torch.randn(1, C, 4, 4)
        kernels.upsample_cross_entropy(scores, labels, align_corners=True)
        kernels.upsample_softmax(scores, (8, 8), align_corners=True)
        kernels.upsample_confusion(scores, labels, align_corners=True)
        kernels.upsample_pseudo_labels(scores, (8, 8), 0.5, align_corners=True)
        semantic(C)

    def semantic(C: int) -> None:
        features = torch.randn(1, 8, 4, 4)
        kernels.class_mean(features, labels, C)
        first, second = torch.randn(16, 8), torch.randn(2 * C, 16)
        biases = torch.randn(16), torch.randn(2 * C)
        kernels.pixel_discriminator_loss(
            features, labels, first, biases[0], second, biases[1], domain=0, adversarial=True
        )

    call(MAX_CLASSES)
    with pytest.raises(ValueError, match="expected at most 64"):
        call(MAX_CLASSES + 1)
    with pytest.raises(ValueError, match="expected 1 to 64"):
        semantic(MAX_CLASSES + 1)
    with pytest.raises(ValueError, match="expected 1 to 64"):
        kernels.pixel_discriminator_loss(
            torch.randn(1, 8, 4, 4),
            labels,
            torch.randn(16, 8),
            torch.randn(16),
            torch.randn(130, 16),
            torch.randn(130),
            domain=0,
            adversarial=True,
        )


def test_the_compile_check_compiles_kernels_for_as_many() -> None:
    pytest.importorskip("triton")
    from fastass.kernels.class_mean import gpu as class_mean
    from fastass.kernels.pixel_discriminator_loss import gpu as pixel
    from fastass.kernels.upsample import confusion_gpu, pseudo_labels_gpu, softmax_gpu

    for module in (class_mean, pixel):
        counts = [launch.arguments.get("num_classes") for launch in module.AOT]
        assert max(c for c in counts if isinstance(c, int)) == MAX_CLASSES, module
    for module in (confusion_gpu, pseudo_labels_gpu, softmax_gpu):
        assert any(f"{MAX_CLASSES} classes" in launch.name for launch in module.AOT), module
