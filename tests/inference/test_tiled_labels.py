"""Tiles and bands give what the whole image gives, in bounded memory."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from child import environment
from PIL import Image

import fastass
from fastass.inference import upsampled_labels as bands
from fastass.inference.views import Views, labels, probabilities, spans

SHAPES = [
    ((97, 150), (64, 48), 0), ((97, 150), (64, 48), 20), ((40, 33), (64, 64), 16),
    ((50, 45), (32, 32), 31), ((64, 64), (32, 32), 0),
]  # fmt: skip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shape", "tile", "overlap"), SHAPES)
def test_tiles_are_as_of_the_whole_image(
    trained: Path, shape: tuple[int, int], tile: tuple[int, int], overlap: int, flip: bool
) -> None:
    network = fastass.load(trained, device="cpu")
    pixels = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    views = Views(flip=flip, tile=tile, overlap=overlap)
    assert network.in_tiles(pixels, views)
    found = network.labels(pixels, views)
    batch = network.read(pixels, views)
    whole = probabilities(network.generator, batch, shape, views, network.runtime)[0]
    same = found == whole.argmax(0).numpy()
    if flip:  # the order of sums of more than two tiles differs
        best = whole.topk(2, 0).values
        assert (best[0] - best[1])[torch.from_numpy(~same)].lt(1e-6).all()
    else:
        assert same.all()


def test_what_is_not_read_in_tiles(trained: Path) -> None:
    network = fastass.load(trained, device="cpu")
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert not network.in_tiles(pixels, Views())
    assert not network.in_tiles(pixels, Views(tile=(32, 32)), (48, 48))
    assert not network.in_tiles(pixels, Views((0.5, 1.0), tile=(32, 32)))


@pytest.mark.parametrize("corners", [True, False])
def test_bands_are_as_one_upsampling(corners: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(2, 7, 9, 13, generator=torch.Generator().manual_seed(1))
    for size in ((150, 201), (1, 40), (65, 1), (9, 13)):
        whole = torch.nn.functional.interpolate(
            scores, size=size, mode="bilinear", align_corners=corners
        ).argmax(1)
        monkeypatch.setattr(bands, "LARGE", 1)
        assert torch.equal(bands.upsampled_labels(scores, size, corners).long(), whole)
        monkeypatch.setattr(bands, "LARGE", 2**40)
        assert torch.equal(bands.upsampled_labels(scores, size, corners).long(), whole)


def test_labels_take_the_bands(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = fastass.load(trained, device="cpu")
    image = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    small = labels(network.generator, image, (90, 170), Views(), network.runtime)
    monkeypatch.setattr(bands, "LARGE", 1)
    large = labels(network.generator, image, (90, 170), Views(), network.runtime)
    assert (small != large).float().mean() < 1e-3  # ties


PEAK = """
import sys, torch
from fastass.cli.main import main
from fastass.runtime.peak_memory import peak_memory
code = main(sys.argv[1:])
print("peak MiB", peak_memory(torch.device("cpu")) // 2**20)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "more", "limit"),
    [((12000, 8000), ["--tile", "1024x1024"], 1536), ((3840, 2160), [], 1024)],
)
def test_peak_memory(
    trained: Path, tmp_path: Path, size: tuple[int, int], more: list[str], limit: int
) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (size[1] // 40, size[0] // 40, 3), np.uint8)
    picture = Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR)
    picture.save(tmp_path / "large.png", compress_level=1)  # of 90 MB, as a photograph
    command = [sys.executable, "-c", PEAK, "predict", str(trained), str(tmp_path / "large.png")]
    ran = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), *more],
        capture_output=True, text=True, env=environment(OMP_NUM_THREADS="2"),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    peak = int(ran.stdout.split()[-1])
    print(f"{size}: {peak} MiB, {os.cpu_count()} cores")
    assert peak < limit
    if more:
        assert_as_its_tiles(trained, tmp_path / "large.png", tmp_path / "out")


def assert_as_its_tiles(trained: Path, image: Path, out: Path) -> None:
    """Where four tiles meet, and at the end, labels are those of the mean over the tiles there."""
    network = fastass.load(trained, device="cpu")
    pixels = np.asarray(Image.open(image))
    found = np.asarray(Image.open(out / "large_trainIds.png"))
    assert found.shape == pixels.shape[:2]
    rows, columns = (spans(length, 1024, 0) for length in found.shape)
    for top, left, tiles in ((980, 980, 4), (7900, 11900, 1)):
        total, count = np.zeros((19, 100, 100)), np.zeros((100, 100))
        for tile in product(rows, columns):
            y, x = np.arange(top, top + 100), np.arange(left, left + 100)
            y, x = (
                at[(at >= span.start) & (at < span.stop)]
                for at, span in zip((y, x), tile, strict=True)
            )
            if len(y) and len(x):
                piece = network.probabilities(pixels[tile], size=(1024, 1024))
                here = np.ix_(y - tile[0].start, x - tile[1].start)
                total[:, y[0] - top : y[-1] - top + 1, x[0] - left : x[-1] - left + 1] += piece[
                    :, here[0], here[1]
                ]
                count[np.ix_(y - top, x - left)] += 1
        best = np.sort(total / count, axis=0)
        sure = best[-1] - best[-2] > 1e-6
        labels = total.argmax(0)
        assert count.max() == tiles
        assert len(np.unique(labels)) > 1
        assert sure.mean() > 0.99
        assert (found[top : top + 100, left : left + 100] == labels)[sure].all()
