"""Self-training's mixed batch by the sequential procedure, image by image in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.kernels.convolution import running_statistics
from fastass.pipelines.loaders.batch import StepBatch
from fastass.self_training.draw import draw
from fastass.training.step import TrainStep

CLASSES, SOURCE, TARGET = 5, (72, 96), (64, 80)
YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.311]], dtype=torch.float64
)


def upsample(scores: Tensor) -> Tensor:
    return F.interpolate(scores, size=TARGET, mode="bilinear", align_corners=True)


def middle_confidence(e: TrainStep, batch: StepBatch) -> float:
    """A threshold that half of the pixels exceed."""
    assert batch.unlabelled is not None
    assert e.module.teacher is not None
    with torch.no_grad(), running_statistics.collected():
        scores = e.module.teacher(batch.unlabelled.images).scores
    return float(upsample(scores).softmax(1).amax(1).median())


def plain_mix(e: TrainStep, batch: StepBatch, update: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and pixel weights of the mixed batch."""
    assert e.self_training is not None
    c, teacher = e.self_training.config, e.module.teacher
    assert teacher is not None
    assert batch.source is not None
    assert batch.unlabelled is not None
    kept = {k: v.clone() for k, v in teacher.state_dict().items()}
    with torch.no_grad():
        P = upsample(teacher(batch.unlabelled.images).scores).softmax(1)
    teacher.load_state_dict(kept)
    (H, W), count = TARGET, len(P)
    d = draw(e.config.seed, range(update * count, (update + 1) * count), CLASSES)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=P.dtype)[:, None, None] * 255
    std = torch.tensor([0.229, 0.224, 0.225], dtype=P.dtype)[:, None, None] * 255
    images, labels, weights = [], [], []
    for i in range(count):
        confidence, label = P[i].max(0)
        image = batch.unlabelled.images[i].clone()
        pasted = torch.zeros(TARGET, dtype=torch.bool)
        y, x = int(d.crop_y[i] * (SOURCE[0] - H + 1)), int(d.crop_x[i] * (SOURCE[1] - W + 1))
        assert batch.source.labels is not None
        donors = [
            (
                batch.source.images[i, :, y : y + H, x : x + W],
                batch.source.labels[i, y : y + H, x : x + W],
                d.source_keys[i],
            )
        ]
        if batch.labelled is not None:
            assert batch.labelled.labels is not None
            donors.append((batch.labelled.images[i], batch.labelled.labels[i], d.labelled_keys[i]))
        for donor, truth, keys in donors:
            present = [int(k) for k in truth.unique() if k != 255]
            chosen = sorted(present, key=lambda k: keys[k])[: (len(present) + 1) // 2]
            for k in chosen:
                mask = truth == k
                image[:, mask], label[mask] = donor[:, mask], k
                pasted |= mask
        weight = torch.where(pasted, 1.0, (confidence > c.confidence).double().mean())
        zoom = 1 + (c.zoom - 1) * d.zoom[i]
        h, w = round(H / zoom), round(W / zoom)
        top, left = int(d.zoom_y[i] * (H - h + 1)), int(d.zoom_x[i] * (W - w + 1))
        region = image[None, :, top : top + h, left : left + w]
        image = F.interpolate(region, TARGET, mode="bilinear", align_corners=False)[0]
        rows = (top + (torch.arange(H) + 0.5) * h / H).long()
        columns = (left + (torch.arange(W) + 0.5) * w / W).long()
        label, weight = label[rows][:, columns], weight[rows][:, columns]
        levels = image * std + mean
        brightness, contrast, saturation = 1 + c.color_jitter * (2 * torch.tensor(d.color[i]) - 1)
        chroma = torch.diag(torch.stack([torch.ones(()), saturation, saturation]).to(P.dtype))
        levels = torch.einsum("ij,jhw->ihw", YIQ.inverse() @ chroma @ YIQ, levels)
        levels = contrast * brightness * levels + 128 * (1 - contrast)
        image = (levels.clamp(0, 255) - mean) / std
        if d.blurred[i] < 0.5:
            sigma = 0.15 + (c.blur_sigma - 0.15) * float(d.sigma[i])
            r = int(-(-3 * sigma // 1))
            t = torch.exp(-0.5 * (torch.arange(-r, r + 1, dtype=P.dtype) / sigma) ** 2)
            kernel = (t[:, None] * t / t.sum() ** 2).expand(3, 1, -1, -1)
            image = F.conv2d(F.pad(image[None], (r,) * 4, mode="reflect"), kernel, groups=3)[0]
        images.append(image)
        labels.append(label)
        weights.append(weight)
    return torch.stack(images), torch.stack(labels), torch.stack(weights)
