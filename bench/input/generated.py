"""Input rates on generated files of natural content, at the sizes of the paper's data sets.

    python -m bench.input.generated [--layout gta5|cityscapes] [--images 16] [--rounds 5]

Writes full-size PNGs (1/f spectrum: 2–3 MB each, as the real ones), packs them at training size,
and compares the loaders (`fastass.bench.input.loaders`). On your own data: `fastass bench data`.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from fastass.bench.input.loaders import format_rates, measure
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.toycity.rendering.png_files import write_palette

SIZES = {  # full size, training size
    "gta5": ((1914, 1052), (1280, 720)),
    "cityscapes": ((2048, 1024), (1024, 512)),
}


def smooth(height: int, width: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise with amplitude 1/f^slope, mean 0, deviation 1: float64 [H,W]."""
    rows = np.fft.fftfreq(height)[:, None] * width
    columns = np.fft.rfftfreq(width)[None] * width
    amplitude = np.maximum(np.hypot(rows, columns), 1) ** -slope
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    field = np.fft.irfft2(amplitude * phase, (height, width))
    return np.asarray((field - field.mean()) / field.std())


def natural(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [H,W,3], label ids 0…33 uint8 [H,W])."""
    rng = np.random.default_rng(seed)
    grey = smooth(height, width, rng, 1.6)
    color = np.stack([grey + 0.25 * smooth(height, width, rng, 1.6) for _ in range(3)], axis=-1)
    image = 128 + 50 * color + rng.normal(0, 1, color.shape)
    label = np.clip(17 + 8 * smooth(height, width, rng, 2.2), 0, 33)
    return np.clip(image, 0, 255).astype(np.uint8), label.astype(np.uint8)


def write(root: Path, layout: str, count: int) -> None:
    """`count` pairs of the layout; what is there already is kept."""
    width, height = SIZES[layout][0]
    for i in range(count):
        if layout == "gta5":
            image, label = root / f"images/{i:05d}.png", root / f"labels/{i:05d}.png"
        else:
            name = f"train/aachen/aachen_{i:06d}_000019"
            image = root / f"leftImg8bit/{name}_leftImg8bit.png"
            label = root / f"gtFine/{name}_gtFine_labelIds.png"
        if label.exists():
            continue
        pixels, ids = natural(height, width, i)
        for path, array in ((image, pixels), (label, ids)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if layout == "gta5" and path == label:
                write_palette(path, array)
            else:
                Image.fromarray(array).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layout", choices=SIZES, default="gta5")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dir", type=Path, help="keeps the files; default: a temporary directory")
    args = parser.parse_args()
    full, size = SIZES[args.layout]
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.dir or Path(temporary)) / args.layout
        write(root / "files", args.layout, args.images)
        files = open_dataset(root / "files", args.layout)
        pack(files, root / "packed", size)
        packed = open_packed(root / "packed")
        options = {"batch": args.batch, "workers": args.workers, "rounds": args.rounds}
        rates = measure(files, packed, size, device=args.device, **options)
    print(
        f"{args.layout}: {full[0]}x{full[1]} PNG → {size[0]}x{size[1]}, batch {args.batch}, "
        f"{args.workers} workers, {len(os.sched_getaffinity(0))} cores"
    )
    print(format_rates(rates))


if __name__ == "__main__":
    main()
