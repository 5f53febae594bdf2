"""ToyCity: determinism, layouts, classes, and that images and labels belong together."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from PIL import Image

from fastass.pipelines.datasets.classes import CITYSCAPES, GTA5, IGNORE, NAMES
from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.toycity import class_shares, dataset, generate, is_complete
from fastass.pipelines.toycity.write import CITIES, Job, draw

SMALL: dict[str, Any] = {"source_size": (120, 66), "target_size": (128, 64)}


def digests(root: Path) -> dict[str, str]:
    """Every file below a directory, by its relative name."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ToyCity of seed 3, drawn in this process."""
    root = tmp_path_factory.mktemp("toycity") / "a"
    generate(root, 3, 4, seed=3, val=2, workers=1, **SMALL)
    return root


def test_same_bytes_with_two_workers_and_other_bytes_with_another_seed(
    city: Path, tmp_path: Path
) -> None:
    seen = []
    generate(
        tmp_path / "b",
        3,
        4,
        seed=3,
        val=2,
        workers=2,
        progress=lambda done, all_: seen.append((done, all_)),
        **SMALL,
    )
    assert digests(tmp_path / "b") == digests(city)
    assert seen == [(i, 9) for i in range(1, 10)]
    generate(tmp_path / "c", 3, 4, seed=4, val=2, workers=1, **SMALL)
    other = digests(tmp_path / "c")
    assert other.keys() == digests(city).keys()
    assert not set(other.values()) & set(digests(city).values())


def test_more_images_keep_the_first_ones(city: Path, tmp_path: Path) -> None:
    generate(tmp_path / "d", 1, 1, seed=3, val=1, workers=1, **SMALL)
    first, larger = digests(tmp_path / "d"), digests(city)
    del first[dataset.MANIFEST]
    assert len(first) == 6
    assert first.items() <= larger.items()


def test_layouts(city: Path) -> None:
    names = set(digests(city))
    gta5 = {f"gta5/{kind}/{i:05d}.png" for kind in ("images", "labels") for i in (1, 2, 3)}
    assert {n for n in names if n.startswith("gta5/")} == gta5
    stems = {("train", CITIES["train"][i]) for i in range(4)} | {("val", c) for c in CITIES["val"]}
    assert {n for n in names if n.startswith("cityscapes/")} == {
        f"cityscapes/{folder}/{split}/{c}/{c}_000000_000019_{end}.png"
        for split, c in stems
        for folder, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds"))
    }
    assert json.loads((city / "toycity.json").read_text())["seed"] == 3
    assert len(names) == len(gta5) + 2 * len(stems) + 1


def test_modes_sizes_and_label_values(city: Path) -> None:
    for path in city.rglob("*.png"):
        with Image.open(path) as image:
            values = np.asarray(image)
            source = "gta5" in path.parts
            assert image.size == (SMALL["source_size"] if source else SMALL["target_size"])
            if "labels" in path.parts:
                assert image.mode == "P"
                GTA5.encode(values, str(path))
                assert len(np.unique(values)) > 5
            elif "gtFine" in path.parts:
                assert image.mode == "L"
                CITYSCAPES.encode(values, str(path))
                assert values.max() <= 33
                assert (values[0] == 3).all()
            else:
                assert image.mode == "RGB"


def test_the_readers_open_it(city: Path) -> None:
    for folder, split, count in (
        ("gta5", "train", 3),
        ("cityscapes", "train", 4),
        ("cityscapes", "val", 2),
    ):
        dataset_ = open_dataset(city / folder, "auto", split=split)
        assert (dataset_.layout, len(dataset_.samples)) == (folder, count)
        for sample in dataset_.samples:
            image, label = read_image(sample), read_label(dataset_, sample)
            assert image.shape == (*label.shape, 3)
    # the reader's train ids are those that were drawn
    _, picture = draw(Job("", "source", 2, 3, SMALL["source_size"], "gta5"))
    gta5 = open_dataset(city / "gta5")
    drawn = GTA5.encode(picture.label, "drawn")
    np.testing.assert_array_equal(read_label(gta5, gta5.samples[2]), drawn)


def test_synthia_layout(tmp_path: Path) -> None:
    generate(tmp_path, 1, 1, workers=1, source_layout="synthia", **SMALL)
    label = tmp_path / "synthia" / "GT" / "LABELS" / "0000000.png"
    assert label.read_bytes()[24:26] == b"\x10\x02"  # 16 bits, RGB
    synthia = open_dataset(tmp_path / "synthia")
    assert synthia.layout == "synthia"
    _, picture = draw(Job("", "source", 0, 0, SMALL["source_size"], "synthia"))
    drawn = GTA5.encode(picture.label, "drawn")
    np.testing.assert_array_equal(read_label(synthia, synthia.samples[0]), drawn)
    assert read_image(synthia.samples[0]).shape == (*drawn.shape, 3)


def test_every_class_occurs_with_a_long_tail() -> None:
    for split, count in (("source", 50), ("train", 50), ("val", 50)):
        counts = np.zeros(256, np.int64)
        for number in range(count):
            _, picture = draw(Job("", split, number, 0, (192, 96), "gta5"))
            counts += np.bincount(GTA5.encode(picture.label, "").ravel(), minlength=256)
        assert counts[IGNORE] > 0
        shares = dict(zip(NAMES, counts[:19] / counts[:19].sum(), strict=True))
        assert min(shares.values()) > 1e-5, (split, shares)
        for name in ("road", "building", "vegetation", "sky", "car"):
            assert shares[name] > 0.03, (split, name)
        for name in ("rider", "motorcycle", "bicycle", "truck", "bus", "train", "person"):
            assert shares[name] < 0.03, (split, name)


def test_class_shares_counts_the_files(city: Path) -> None:
    for split, paths in (
        ("source", city.glob("gta5/labels/*")),
        ("val", city.glob("cityscapes/gtFine/val/*/*")),
    ):
        table = GTA5 if split == "source" else CITYSCAPES
        ids = np.concatenate([table.encode(np.asarray(Image.open(p)), "").ravel() for p in paths])
        expected = np.bincount(ids[ids != IGNORE], minlength=19) / (ids != IGNORE).sum()
        np.testing.assert_allclose(class_shares(city, split), expected)
    with pytest.raises(DataError, match="no ToyCity labels"):
        class_shares(city / "nowhere", "source")


def mean_colors(split: str, count: int, shift: float = 1.0) -> np.ndarray:
    """Mean colour [19,3] of each class over some images, NaN where absent."""
    total, counts = np.zeros((19, 3)), np.zeros(19)
    for number in range(count):
        rgb, picture = draw(Job("", split, number, 1, (256, 128), "gta5", shift))
        label = GTA5.encode(picture.label, "")
        for k in range(19):
            inside = label == k
            total[k] += rgb[inside].sum(0)
            counts[k] += inside.sum()
    return total / np.where(counts, counts, np.nan)[:, None]


@pytest.mark.parametrize("split", ["source", "train"])
def test_label_edges_lie_on_image_edges(split: str) -> None:
    """Sky against house or tree: the image jumps where the label does, not three pixels away."""
    jump = dict.fromkeys((-3, 0, 3), 0.0)
    for number in range(6):
        rgb, picture = draw(Job("", split, number, 2, (512, 256), "gta5"))
        step = np.abs(np.diff(rgb.astype(np.float32), axis=1)).sum(-1)
        edge = np.diff((picture.label == 23).astype(np.int8), axis=1) != 0
        edge[:, :4] = edge[:, -4:] = False
        for shift in jump:
            jump[shift] += float(step[np.roll(edge, shift, axis=1)].sum())
    assert jump[0] > 2.5 * max(jump[-3], jump[3]), jump


def test_the_domain_shift_differs_by_class() -> None:
    """Label and image agree (the sky is bright, the source's trees are green), and no one affine
    colour transform of the whole image takes the source's class colours to the target's."""
    source, train = mean_colors("source", 16), mean_colors("train", 16)
    color = {n: (source[i], train[i]) for i, n in enumerate(NAMES)}
    (r0, g0, _), (r1, g1, _) = color["vegetation"]
    assert g0 - r0 > 30
    assert g1 - r1 < 10
    assert color["sky"][0].argmax() == 2
    assert color["sky"][1].min() > 150
    # road and pavement change places in part
    warmth = {n: (s[0] - s[2], t[0] - t[2]) for n, (s, t) in color.items()}
    assert warmth["road"][0] < warmth["sidewalk"][0]
    assert warmth["road"][1] > warmth["sidewalk"][1]
    both = ~np.isnan(source[:, 0] + train[:, 0])
    assert both.sum() >= 17
    inputs = np.hstack([source[both], np.ones((both.sum(), 1))])
    weights = np.linalg.lstsq(inputs, train[both], rcond=None)[0]
    rest = ((train[both] - inputs @ weights) ** 2).sum()
    spread = ((train[both] - train[both].mean(0)) ** 2).sum()
    assert rest > 0.3 * spread


def test_a_smaller_shift_brings_the_classes_colors_nearer() -> None:
    source = mean_colors("source", 8)
    distances = [
        np.nanmean(np.abs(mean_colors("train", 8, shift) - source)) for shift in (0.0, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < 0.9 * distances[2], distances


def test_interrupted_generation_is_not_complete_and_starts_over(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "e"
    real = dataset.write

    def fail(job: Job) -> None:
        if job.split == "val":
            raise KeyboardInterrupt
        real(job)

    monkeypatch.setattr(dataset, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(root, 3, 4, seed=3, val=2, workers=1, **SMALL)
    assert not is_complete(root, 3, 4, seed=3, val=2, **SMALL)
    assert not (root / "toycity.json").exists()
    monkeypatch.undo()
    generate(root, 3, 4, seed=3, val=2, workers=1, **SMALL)
    assert is_complete(root, 3, 4, seed=3, val=2, **SMALL)
    assert digests(root) == digests(city)


def test_complete_means_this_request_with_every_file(
    city: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"source": 3, "target": 4, "seed": 3, "val": 2, **SMALL}
    assert is_complete(city, **asked)
    for change in (
        {"seed": 4},
        {"source": 2},
        {"val": 1},
        {"shift": 0.5},
        {"target_size": (128, 72)},
    ):
        assert not is_complete(city, **{**asked, **change})
        with pytest.raises(DataError, match="another ToyCity"):
            generate(city, **{**asked, **change})

    def never(job: Job) -> None:
        raise AssertionError("a complete set is not drawn again")

    monkeypatch.setattr(dataset, "write", never)
    generate(city, workers=1, **asked)
    label = city / "gta5" / "labels" / "00002.png"
    content = label.read_bytes()
    label.unlink()
    try:
        assert not is_complete(city, **asked)
    finally:
        label.write_bytes(content)


def test_bad_requests(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and not a ToyCity"):
        generate(tmp_path, 1, 1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="is a file"):
        generate(tmp_path / "notes.txt", 1, 1)
    for bad, text in (
        ({"source": 0}, "source is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"target_size": (10, 10)}, "10×10"),
        ({"source_layout": "kitti"}, "'kitti' is unknown"),
    ):
        asked: dict[str, Any] = {"source": 1, "target": 1, **bad}
        with pytest.raises(DataError, match=text):
            generate(tmp_path / "new", **asked)
    assert not (tmp_path / "new").exists()


PARENT = """
import sys
from fastass.pipelines.toycity import generate

if __name__ == "__main__":
    generate(sys.argv[1], 400, 400, workers=2, source_size=(120, 66), target_size=(128, 64),
             progress=lambda done, of: print(done, flush=True))
"""


def test_killed_processes_leave_no_others_behind(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        process = processes.start(PARENT, tmp_path, tmp_path / "city")
        assert process.stdout is not None
        process.stdout.readline()
        return process

    processes.check_workers_end(start, "a ToyCity worker was killed")
