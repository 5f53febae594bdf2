"""The DALI graph of one stream: decode, region resize, colour, blur, mirror, normalise and pad.

All random parameters are inputs (see `fastass.pipelines.loaders.augment`), so the graph has no
state that a resumed run would need.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types

from fastass.pipelines.loaders.augment import AugmentParams, placement, region_box
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import PackedDataset

_DTYPES = {
    torch.float32: types.FLOAT,
    torch.float16: types.FLOAT16,
    torch.bfloat16: types.FLOAT,  # DALI cannot write it: cast afterwards, on the device
}


@dataclass(frozen=True)
class GraphInput:
    """One sample. encoded: bytes of the image file, uint8 [n]. size: (W,H) of the image."""

    encoded: np.ndarray
    size: tuple[int, int]
    params: AugmentParams


def build(
    spec: StreamSpec, threads: int, prefetch: int, device: torch.device, dtype: torch.dtype
) -> Pipeline:
    """Build the pipeline of a stream. Outputs: images [B,H,W,3]; on a GPU also labels [B,H,W].

    On a GPU, JPEG is decoded there (`mixed`); DALI can decode PNG on the CPU only. dtype: float32,
    float16 or bfloat16 (the output is then float32, to be cast by the caller).
    """
    gpu = device.type == "cuda"
    augment, how = spec.augment, spec.how
    pads = augment.pads(spec.size)
    # device_id=None builds a pipeline without a GPU; −1 fails.
    pipe = Pipeline(
        spec.batch, threads, device.index if gpu else None, prefetch_queue_depth=prefetch
    )
    with pipe:
        images = fn.decoders.image(
            _input("encoded", 1, types.UINT8),
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,  # as in Pillow: the label is not rotated by the EXIF tag
            jpeg_fancy_upsampling=True,  # of subsampled chroma, as in Pillow and DALI's CPU decoder
        )
        if resizes(spec):
            region = {}
            if augment.scale is not None:
                region = {
                    "roi_start": _input("roi_start", 1, types.FLOAT),
                    "roi_end": _input("roi_end", 1, types.FLOAT),
                }
            images = fn.resize(
                images,
                size=_input("inside", 1, types.FLOAT) if pads else (spec.size[1], spec.size[0]),
                interp_type=types.INTERP_CUBIC,
                antialias=True,
                **region,
            )
        if augment.jitter or augment.hue:
            images = fn.coord_transform(
                images, MT=_input("color", 2, types.FLOAT), dtype=types.UINT8
            )
            images = fn.reinterpret(images, layout="HWC")
        if augment.blur:
            images = fn.gaussian_blur(
                images,
                sigma=_input("sigma", 0, types.FLOAT),
                window_size=_input("window", 0, types.INT32),
            )
        if how.order == "BGR":
            # Not by the decoder's output_type, which takes 6 ms per megapixel; this takes 2 ms.
            images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.BGR)
        images = fn.crop_mirror_normalize(
            images,
            mirror=_input("mirror", 0, types.INT32) if augment.mirror else 0,
            mean=list(how.mean),
            std=[1 / s for s in how.scale],
            dtype=_DTYPES[dtype],
            output_layout="HWC",
        )
        if pads:
            images = fn.slice(
                images,
                start=_input("corner", 1, types.INT32),
                shape=(spec.size[1], spec.size[0]),
                axes=(0, 1),
                out_of_bounds_policy="pad",
                fill_values=0.0,
            )
        outputs = [images]
        if gpu and spec.with_labels:
            outputs.append(_input("labels", 2, types.UINT8).gpu())
        pipe.set_outputs(*outputs)
    pipe.build()
    return pipe


def feed(
    pipe: Pipeline, spec: StreamSpec, samples: Sequence[GraphInput], labels: torch.Tensor | None
) -> None:
    """Feed one batch to a pipeline. labels: uint8 [B,H,W], only for a pipeline on a GPU."""
    augment = spec.augment
    pipe.feed_input("encoded", [s.encoded for s in samples])
    if augment.scale is not None:
        boxes = [np.array(region_box(s.params, s.size), np.float32) for s in samples]
        pipe.feed_input("roi_start", [box[[1, 0]] for box in boxes])
        pipe.feed_input("roi_end", [box[[3, 2]] for box in boxes])
    if augment.pads(spec.size):
        placed = [np.array(placement(s.params, spec.size)) for s in samples]
        pipe.feed_input("inside", [place[[3, 2]].astype(np.float32) for place in placed])
        pipe.feed_input("corner", [-place[[1, 0]].astype(np.int32) for place in placed])
    if augment.jitter or augment.hue:
        matrices = [np.array(s.params.color, np.float32).reshape(3, 4) for s in samples]
        pipe.feed_input("color", matrices)
    if augment.blur:
        sigmas = np.array([s.params.sigma for s in samples], np.float32)
        pipe.feed_input("window", (2 * np.ceil(3 * sigmas) + 1).astype(np.int32))  # 1: no blur
        pipe.feed_input("sigma", np.where(sigmas > 0, sigmas, 1).astype(np.float32))
    if augment.mirror:
        pipe.feed_input("mirror", np.array([s.params.mirror for s in samples], np.int32))
    if labels is not None:
        pipe.feed_input("labels", labels.numpy())


def resizes(spec: StreamSpec) -> bool:
    """Whether images may have to be resized."""
    packed = isinstance(spec.dataset, PackedDataset) and spec.dataset.size == spec.size
    return spec.augment.scale is not None or not packed


def _input(name: str, ndim: int, dtype: types.DALIDataType) -> Any:
    layout = "HWC"[:ndim] if name == "labels" else None
    return fn.external_source(name=name, ndim=ndim, dtype=dtype, layout=layout)
