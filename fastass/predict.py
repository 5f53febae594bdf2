"""Prediction on single images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastass.execution import Execution
from fastass.models.deeplab import DeepLab
from fastass.picture import overlay, save_train_ids
from fastass.pipelines.augment import Draw
from fastass.pipelines.classes import ClassTable
from fastass.pipelines.layouts import open_images
from fastass.pipelines.pillow import augment_image
from fastass.pipelines.pillow import normalize as normalize_into
from fastass.pipelines.read import read_image
from fastass.pipelines.streams import NORMALIZATIONS


@torch.inference_mode()
def predict(
    generator: DeepLab,
    image: np.ndarray,
    size: tuple[int, int],
    normalize: str,
    execution: Execution,
) -> np.ndarray:
    """Train ids uint8 [H,W] of an RGB image uint8 [H,W,3].

    The image is resized to `size` (W,H), as in training; the scores are upsampled to the image.
    """
    training = generator.training
    generator.eval()
    batch = prepare(image, size, normalize).to(execution.device)
    with execution.autocast():
        scores = generator(batch).scores
    full = F.interpolate(
        scores.float(),
        size=image.shape[:2],
        mode="bilinear",
        align_corners=generator.config.align_corners,
    )
    generator.train(training)
    return full.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()


def prepare(image: np.ndarray, size: tuple[int, int], normalize: str) -> Tensor:
    """RGB uint8 [H,W,3] → the network's input, float32 [1,3,h,w], channels-last."""
    pixels = np.empty((size[1], size[0], 3), np.float32)
    resized = augment_image(Image.fromarray(image), Draw(), size)
    normalize_into(resized, NORMALIZATIONS[normalize], pixels)
    return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)


def predict_files(
    generator: DeepLab,
    images: Path,
    out: Path,
    size: tuple[int, int],
    normalize: str,
    classes: ClassTable,
    execution: Execution,
    progress: Callable[[int, int], None],
) -> int:
    """Predict one image or every image under a folder; → their number.

    Writes OUT/NAME_trainIds.png (pixel value = train id) and OUT/NAME_overlay.png. Raises
    DataError for a file that is no image, naming it.
    """
    dataset = open_images(images)
    for done, sample in enumerate(dataset.samples):
        image = read_image(sample)
        labels = predict(generator, image, size, normalize, execution)
        target = out / sample.name
        target.parent.mkdir(parents=True, exist_ok=True)
        save_train_ids(labels, classes, target.with_name(f"{target.name}_trainIds.png"))
        Image.fromarray(overlay(image, labels, classes)).save(
            target.with_name(f"{target.name}_overlay.png")
        )
        progress(done + 1, len(dataset))
    return len(dataset)
