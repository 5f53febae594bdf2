"""Labels with plausible but foreign ids, and how own data name their ids and files.

Looked at: each layout's table (Cityscapes: 255 is of train ids; GTA5: the palette; SYNTHIA: 16-bit
files, a class id above 22 is refused; own data: unlisted values), through which every label is
read, by loaders, `pack`, evaluation and ToyCity's statistics.
"""

from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from PIL import Image

from fastass.pipelines.datasets.classes import IGNORE, NAMES
from fastass.pipelines.datasets.decode import read_label
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.toycity import generate


def test_train_ids_saved_as_cityscapes_ids(tmp_path: Path) -> None:
    data = open_dataset(files.cityscapes(tmp_path, 1))
    (sample,) = data.samples
    train_ids = read_label(data, sample)
    assert isinstance(sample.label, Path)
    files.write_image(sample.label, train_ids)
    with pytest.raises(DataError, match=r"label value 255, which no label id .* train ids\?"):
        read_label(data, sample)


def test_gta5_labels_as_they_are(tmp_path: Path) -> None:
    """Every id with its own colour; also saved again with the same palette, or without colours."""
    data = open_dataset(files.gta5(tmp_path, 1, (70, 10)))
    (sample,) = data.samples
    label = files.on_disk(sample.label)
    ids = np.arange(700, dtype=np.uint8).reshape(10, 70) % 35
    files.write_palette(label, ids)
    wanted = read_label(data, sample)
    assert set(np.unique(wanted)) == {*range(19), IGNORE}
    grey = Image.fromarray(ids)
    grey.save(label)
    np.testing.assert_array_equal(read_label(data, sample), wanted)
    for palette in ([v for i in range(256) for v in (i, i, i)], [0] * 768):
        image = Image.fromarray(ids)
        image.putpalette(palette)
        image.save(label)
        np.testing.assert_array_equal(read_label(data, sample), wanted)


@pytest.mark.parametrize("how", ["quantize", "adaptive", "sorted", "two classes", "shortened"])
def test_gta5_labels_quantised_again(tmp_path: Path, how: str) -> None:
    """The picture is the same, the indices are others."""
    data = open_dataset(files.gta5(tmp_path, 1))
    (sample,) = data.samples
    assert isinstance(sample.label, Path)
    ids = files.blocks(28, 48, 35, 1)
    if how == "two classes":
        ids = np.where(ids > 17, 7, 26).astype(np.uint8)  # their new indices, 0 and 1, are ignored
    files.write_palette(sample.label, ids)
    before = np.asarray(Image.open(sample.label).convert("RGB"))
    image: Image.Image = Image.open(sample.label)
    if how == "adaptive":
        image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    elif how == "sorted":
        image = image.remap_palette([*range(34, -1, -1)])
    elif how == "shortened":
        image = image.remap_palette(np.unique(ids).tolist()[1:])
    else:
        image = image.convert("RGB").quantize()
    image.save(sample.label)
    np.testing.assert_array_equal(np.asarray(Image.open(sample.label).convert("RGB")), before)
    with pytest.raises(DataError, match=r"00001.png: index .* the indices are no label ids"):
        read_label(data, sample)
    assert not pack(data, tmp_path / "out", (20, 12), workers=1).complete


def test_toycity_has_the_colours_of_cityscapes(tmp_path: Path) -> None:
    generate(tmp_path, 2, 1, workers=1, source_size=(128, 64), target_size=(64, 32))
    data = open_dataset(tmp_path / "gta5")
    assert all(read_label(data, sample).size for sample in data.samples)


def test_own_data_with_suffixes(tmp_path: Path) -> None:
    """CamVid's names: 0001TP.png and 0001TP_L.png; and a_img.jpg with a_labelIds.png."""
    for image, label in (("", "_L"), ("_img", "_labelIds")):
        root = tmp_path / (label or "x")
        ids = files.blocks(24, 40, 3, 0)
        files.write_image(root / f"images/0001TP{image}.png", files.natural(24, 40))
        files.write_image(root / f"labels/0001TP{label}.png", ids)
        files.write_image(root / "labels/0001TP_color.png", files.natural(24, 40))
        (root / "classes.yaml").write_text(
            f"names: [road, car]\nids: [1, 2]\nignore: others\nlabel_suffix: {label}\n"
            f"image_suffix: '{image}'\n"
        )
        data = open_dataset(root)
        assert [sample.name for sample in data.samples] == ["0001TP"]
        wanted = np.array([IGNORE, 0, 1], np.uint8)[ids]
        np.testing.assert_array_equal(read_label(data, data.samples[0]), wanted)
        (root / f"labels/0001TP{label}.png").unlink()
        with pytest.raises(DataError, match=f"labels/0001TP{label}.png is missing"):
            open_dataset(root)
        with (root / "classes.yaml").open("a") as file:
            file.write("splits: false\n")
        (root / f"images/0001TP{image}.png").unlink()
        with pytest.raises(DataError, match=r"no images \(.*\)"):
            open_dataset(root)


def test_an_unlisted_value_of_own_data(tmp_path: Path) -> None:
    data = open_dataset(files.folder(tmp_path, 1))
    (sample,) = data.samples
    assert isinstance(sample.label, Path)
    files.write_image(sample.label, np.full((24, 40), 22, np.uint8))
    message = "label value 22 is not listed in classes.yaml: add it to ids or ignore"
    with pytest.raises(DataError, match=rf"labels/0.png: {message}"):
        read_label(data, sample)


def test_names_of_gta5s_classes_and_colours_agree() -> None:
    assert files.id_color(7) == (128, 64, 128)
    assert files.id_color(34) == files.id_color(26)
    assert NAMES[0] == "road"
