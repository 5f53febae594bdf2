"""DALI against the Pillow path, on the CPU and, where there is one, on a GPU (marked gpu)."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import pytest
import torch
from PIL import Image

from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.normalization import NORMALIZATIONS
from fastass.pipelines.loaders.open_loader import open_loader
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import PackedDataset, open_packed
from fastass.pipelines.packed.pack import pack

pytest.importorskip("nvidia.dali")
from fastass.pipelines.loaders.dali import DaliLoader

SIZE = (48, 32)
CUDA = pytest.param(
    "cuda:0",
    marks=(
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ),
)
on_every_device = pytest.mark.parametrize("device", ["cpu", CUDA])


@pytest.fixture(scope="module")
def gta5(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(files.gta5(tmp_path_factory.mktemp("gta5"), 5, (97, 63)))


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(files.cityscapes(tmp_path_factory.mktemp("city"), 7, (96, 64)))


@pytest.fixture(scope="module")
def packed(city: Dataset, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    out = tmp_path_factory.mktemp("out") / "packed"
    pack(city, out, SIZE, workers=1, records_per_shard=3)
    return open_packed(out)


def steps(loader: Any, start: int, count: int) -> list[StepBatch]:
    with loader:
        return list(islice(loader.batches(start), count))


def levels(images: torch.Tensor, normalize: str) -> np.ndarray:
    """Normalised images [B,3,H,W] → levels 0–255 as float64 [B,H,W,3]."""
    how = NORMALIZATIONS[normalize]
    return images.permute(0, 2, 3, 1).double().cpu().numpy() / how.scale + how.mean


# Levels from the Pillow path: nearly everywhere, and at most. Pillow rounds to 8 bits between the
# two passes of its bicubic filter, DALI does not; a colour matrix multiplies what is left.
AUGMENTS = {
    "none": (Augment(mirror=False), 1, 2),
    "mirror": (Augment(), 1, 2),
    "region": (Augment(scale=(1.0, 2.5)), 1, 2),
    "padding": (Augment(scale=(0.5, 1.2)), 1, 2),
    "padding, jitter and blur": (Augment(scale=(0.5, 0.8), jitter=0.4, blur=1.0), 3, 4),
    "jitter": (Augment(jitter=0.4, hue=30), 3, 4),
    "blur": (Augment(blur=2.0), 1, 2),
}


@on_every_device
@pytest.mark.parametrize("data", ["gta5", "packed"])
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("normalize", ["bgr", "imagenet"])
def test_same_batches_as_pillow(
    data: str, augment: str, normalize: str, device: str, request: pytest.FixtureRequest
) -> None:
    how, usual, most = AUGMENTS[augment]
    if device != "cpu":  # nvJPEG's inverse DCT is another one, by a level or two
        usual, most = usual + 2, most + 4
    spec = StreamSpec(request.getfixturevalue(data), 2, SIZE, normalize, how)
    ours = steps(DaliLoader({"source": spec}, 4, device=device), 0, 6)
    truth = steps(PillowLoader({"source": spec}, 4), 0, 6)
    above = []
    for a, b in zip(ours, truth, strict=True):
        assert a.source is not None
        assert b.source is not None
        assert a.source.names == b.source.names
        assert a.source.labels is not None
        assert b.source.labels is not None
        assert torch.equal(a.source.labels.cpu(), b.source.labels)
        assert a.source.images.device == a.source.labels.device == torch.device(device)
        assert a.source.images.is_contiguous(memory_format=torch.channels_last)
        assert a.source.images.dtype == torch.float32
        difference = abs(levels(a.source.images, normalize) - levels(b.source.images, normalize))
        assert difference.max() < most + 0.01
        assert difference.mean() < 0.6
        above.append((difference > usual + 0.01).mean())
    assert np.mean(above) < 2e-4


FORMATS: dict[str, Callable[[np.ndarray, Path], object]] = {
    "grey.png": lambda pixels, path: Image.fromarray(pixels[..., 0]).save(path),
    "palette.png": lambda pixels, path: Image.fromarray(pixels).quantize(64).save(path),
    "alpha.png": lambda pixels, path: Image.fromarray(np.dstack([pixels, pixels])[..., :4]).save(
        path
    ),
    "grey16.png": lambda pixels, path: path.write_bytes(
        files.png_bytes(pixels[..., 0].astype(np.uint16) * 251)
    ),
    "rgb16.png": lambda pixels, path: path.write_bytes(
        files.png_bytes(pixels.astype(np.uint16) * 257)
    ),
    "grey.jpg": lambda pixels, path: Image.fromarray(pixels[..., 0]).save(path),
    "halved chroma.jpg": lambda pixels, path: Image.fromarray(pixels).save(path, subsampling=2),
    "progressive.jpg": lambda pixels, path: Image.fromarray(pixels).save(path, progressive=True),
    "cmyk.jpg": lambda pixels, path: Image.fromarray(pixels).convert("CMYK").save(path),
}


@on_every_device
@pytest.mark.parametrize("name", FORMATS)
def test_same_pixels_as_pillow_from_every_format(tmp_path: Path, name: str, device: str) -> None:
    root = files.folder(tmp_path, 1, (96, 64))
    (root / "images/0.jpg").unlink()
    (root / "labels/0.png").rename(root / f"labels/{Path(name).stem}.png")
    FORMATS[name](files.natural(64, 96), root / "images" / name)
    spec = StreamSpec(open_dataset(root), 1, SIZE, augment=Augment(mirror=False))
    (ours,) = steps(DaliLoader({"source": spec}, 0, device=device), 0, 1)
    (truth,) = steps(PillowLoader({"source": spec}, 0), 0, 1)
    assert ours.source is not None
    assert truth.source is not None
    difference = (ours.source.images.cpu() - truth.source.images).abs()
    assert difference.max() < (4.01 if device == "cpu" else 8.01)  # Pillow clips between passes
    assert difference.mean() < 1


def three(gta5: Dataset, packed: PackedDataset, batch: int = 2) -> dict[str, StreamSpec]:
    busy = Augment(scale=(1.0, 2.0), jitter=0.3, hue=10, blur=1.0)
    return {
        "source": StreamSpec(gta5, batch, SIZE, augment=busy),
        "labelled": StreamSpec(packed, 1, SIZE, indices=(1, 4, 6)),
        "unlabelled": StreamSpec(packed, batch, SIZE, "imagenet", with_labels=False),
    }


@on_every_device
@pytest.mark.parametrize("start", [1, 7])
def test_resume_is_exact(gta5: Dataset, packed: PackedDataset, device: str, start: int) -> None:
    streams = three(gta5, packed)
    straight = steps(DaliLoader(streams, 5, device=device), 0, 10)
    resumed = steps(DaliLoader(streams, 5, workers=1, prefetch=3, device=device), start, 10 - start)
    for a, b in zip(straight[start:], resumed, strict=True):
        for one, two in zip(a, b, strict=True):
            assert (one is None) == (two is None)
            if one is None or two is None:
                continue
            assert one.names == two.names
            assert torch.equal(one.images, two.images)
            assert (one.labels is None) == (two.labels is None)
            if one.labels is not None and two.labels is not None:
                assert torch.equal(one.labels, two.labels)


def test_world_size_does_not_change_the_global_batch(packed: PackedDataset) -> None:
    def run(batch: int, rank: int, world: int) -> list[StepBatch]:
        return steps(DaliLoader({"source": StreamSpec(packed, batch, SIZE)}, 5, rank, world), 0, 3)

    whole = run(4, 0, 1)
    parts = [run(2, rank, 2) for rank in (0, 1)]
    for step in range(3):
        joined = torch.cat([part[step].source.images for part in parts])  # type: ignore[union-attr]
        assert torch.equal(joined, whole[step].source.images)  # type: ignore[union-attr]


@on_every_device
def test_batches_stay_valid(packed: PackedDataset, device: str) -> None:
    """The memory is DALI's own: later steps must not overwrite it."""
    streams = {"source": StreamSpec(packed, 2, SIZE)}
    kept = steps(DaliLoader(streams, 0, device=device), 0, 12)
    for step, batch in enumerate(kept):
        (again,) = steps(DaliLoader(streams, 0, device=device), step, 1)
        assert torch.equal(batch.source.images, again.source.images)  # type: ignore[union-attr]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_batches_are_ordered_with_the_stream_that_uses_them(packed: PackedDataset) -> None:
    """A batch is ready when the caller's stream reads it, and its memory is not reused before."""
    streams = {"source": StreamSpec(packed, 4, SIZE)}
    straight = steps(DaliLoader(streams, 0, device="cuda:0"), 0, 30)
    side = torch.cuda.Stream()
    copies = []
    with torch.cuda.stream(side), DaliLoader(streams, 0, device="cuda:0") as loader:
        for batch in islice(loader.batches(), 30):
            assert batch.source is not None
            torch.cuda._sleep(20_000_000)  # some 10 ms: the step that the batch waits for
            copies.append(batch.source.images.clone())
    torch.cuda.synchronize()
    for copy, step in zip(copies, straight, strict=True):
        assert torch.equal(copy, step.source.images)  # type: ignore[union-attr]


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_compute_dtype(packed: PackedDataset, device: str, dtype: torch.dtype) -> None:
    streams = {"source": StreamSpec(packed, 2, SIZE, "imagenet")}
    (got,) = steps(DaliLoader(streams, 0, dtype=dtype, device=device), 0, 1)
    (full,) = steps(DaliLoader(streams, 0, device=device), 0, 1)
    assert got.source is not None
    assert full.source is not None
    assert got.source.images.dtype == dtype
    assert got.source.images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.source.images, full.source.images.to(dtype))


@pytest.fixture
def broken(tmp_path: Path) -> Dataset:
    return open_dataset(files.gta5(tmp_path / "gta5", 5, (97, 63)))


@on_every_device
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.parametrize("kind", ["image", "label"])
def test_bad_file_is_named_and_can_be_skipped(
    broken: Dataset, kind: str, damage: str, device: str
) -> None:
    path = getattr(broken.samples[2], kind)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content[len(content) // 2] ^= 16
    path.write_bytes(content)
    streams = {"source": StreamSpec(broken, 1, SIZE)}
    with pytest.raises(DataError, match=f"{path.parent.name}/00003.png: damaged"):
        steps(DaliLoader(streams, 0, device=device), 0, 5)
    got = steps(DaliLoader(streams, 0, on_bad_sample="skip", device=device), 0, 10)
    truth = steps(PillowLoader(streams, 0, on_bad_sample="skip"), 0, 10)
    assert sum(step.skipped for step in got) == 2
    (line,) = [line for step in got for line in step.found_bad]
    assert line.startswith(str(path))
    assert [s.source.names for s in got if s.source] == [s.source.names for s in truth if s.source]


def test_bad_sample_is_reported_at_its_step(broken: Dataset) -> None:
    order = [s.source.names[0] for s in _pillow(broken, 5) if s.source]
    last = next(s for s in broken.samples if s.name == order[4])
    files.on_disk(last.image).write_bytes(b"gone")
    seen: list[str] = []
    batches = DaliLoader({"source": StreamSpec(broken, 1, SIZE)}, 0).batches()
    for _ in range(4):
        seen += next(batches).source.names  # type: ignore[union-attr]
    with pytest.raises(DataError, match=f"{last.image.name}: damaged"):
        next(batches)
    assert seen == order[:4]


def _pillow(data: Dataset, count: int) -> list[StepBatch]:
    return steps(PillowLoader({"source": StreamSpec(data, 1, SIZE)}, 0), 0, count)


def test_truncated_jpeg_is_not_accepted(tmp_path: Path) -> None:
    """DALI alone returns pixels for it."""
    root = files.folder(tmp_path, 3, (96, 64))
    path = root / "images/1.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    streams = {"source": StreamSpec(open_dataset(root), 1, SIZE)}
    with pytest.raises(DataError, match=r"images/1.jpg: damaged image file"):
        steps(DaliLoader(streams, 0), 0, 4)


def test_damaged_shard_is_named(city: Dataset, tmp_path: Path) -> None:
    pack(city, tmp_path / "p", SIZE, workers=1, records_per_shard=3)
    data = open_packed(tmp_path / "p")
    victim = data.locations[4][1].image
    path = tmp_path / "p/shard-00001.tar"
    content = bytearray(path.read_bytes())
    content[victim.offset + victim.size // 2] ^= 1
    path.write_bytes(content)
    streams = {"source": StreamSpec(open_packed(tmp_path / "p"), 1, SIZE)}
    with pytest.raises(DataError, match=r"shard-00001.tar: record .*checksum"):
        steps(DaliLoader(streams, 0), 0, 8)
    got = steps(DaliLoader(streams, 0, on_bad_sample="skip"), 0, 7)
    assert sum(step.skipped for step in got) == 1


def test_what_only_dali_refuses_is_diagnosed(
    packed: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DaliLoader({"source": StreamSpec(packed, 2, SIZE)}, 0)
    source = loader._readers["source"].samples
    monkeypatch.setattr(source, "encoded", lambda i: np.zeros(99, np.uint8))
    with pytest.raises(DataError, match=r"DALI cannot decode one of .*aachen"):
        steps(loader, 0, 1)


def test_open_feed_gives_dali(packed: PackedDataset) -> None:
    loader = open_loader("dali", {"source": StreamSpec(packed, 2, SIZE)}, 0)
    assert isinstance(loader, DaliLoader)
    loader.close()
