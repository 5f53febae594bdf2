"""Opening the data of a run: archives as their owners ship them, validation apart from training.

Looked for images that are both trained on and validated on: `--data-val` equal to the target, to
the source, and either of them under another path (symbolic links). Packed data do not say where an
image came from, so nothing is compared with them.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import dataset_files as files
import pytest

from fastass.checkpoint.own_files import LABELLED, read_labelled
from fastass.checkpoint.resume import adopt_roots, with_absolute_paths
from fastass.checkpoint.run_directory import make_run
from fastass.config.schema import Config, DataConfig
from fastass.config.text import to_yaml
from fastass.errors import UserError
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import printable
from fastass.tracking.progress import Silent
from fastass.training.open_data import open_training_data, select_labelled

NAMES = ("line\nbreak", "not-utf8-\udcff", " spaces ", "wide\u3000space", "nel\x85", "plain")


def test_names_survive_the_list_of_labelled_images(tmp_path: Path) -> None:
    """A run's list is read back when it is resumed; a user's list may come from Windows."""
    root = files.folder(tmp_path / "own", len(NAMES))
    for i, name in enumerate(NAMES):
        (root / f"images/{i}.jpg").rename(root / f"images/{name}.jpg")
        (root / f"labels/{i}.png").rename(root / f"labels/{name}.png")
    target = open_dataset(root)
    names = [sample.name for sample in target.samples]
    make_run(tmp_path / "run", Config(), names, {})
    assert read_labelled(tmp_path / "run") == [printable(name) for name in names]
    listed = str(tmp_path / "run" / LABELLED)
    assert select_labelled(target, 1, 0, listed) == tuple(range(len(NAMES)))
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfplain \r\n")
    assert select_labelled(target, 1, 0, str(tmp_path / "windows.txt")) == (names.index("plain"),)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    city = files.cityscapes(tmp_path / "city", 3, (96, 64))
    files.cityscapes(tmp_path / "city", 2, (96, 64), split="val")
    source = files.gta5(tmp_path / "gta5", 2, (96, 64))
    data = DataConfig(source=str(source), target=str(city))
    return Config(data=data, labelled=1)


def zipped(folder: Path) -> str:
    """Two archives of a data set, separated by a comma, as GTA5 ships them."""
    names = ("images", "labels")
    return ",".join(
        shutil.make_archive(str(folder.with_name(f"0_{name}")), "zip", folder, name)
        for name in names
    )


def test_archives_are_trained_from(config: Config) -> None:
    assert config.data.source is not None
    archives = zipped(Path(config.data.source))
    data, _ = open_training_data(
        replace(config, data=replace(config.data, source=archives)), Silent()
    )
    plain, _ = open_training_data(config, Silent())
    assert data.source is not None
    assert plain.source is not None
    assert len(data.source) == len(plain.source) == 2


def test_archives_are_found_again(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run remembers them by absolute paths; one that is gone is named."""
    monkeypatch.chdir(tmp_path)
    zipped(Path("gta5"))
    config = replace(config, data=replace(config.data, source="0_images.zip,0_labels.zip"))
    config = with_absolute_paths(config)
    assert config.data.source == f"{tmp_path}/0_images.zip,{tmp_path}/0_labels.zip"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config))
    resumed = replace(config, data=replace(config.data, source=None))
    assert adopt_roots(run, resumed).data.source == config.data.source
    (tmp_path / "0_labels.zip").unlink()
    with pytest.raises(UserError, match=r"the run's source data .* is not there; give --data-s"):
        adopt_roots(run, resumed)


@pytest.mark.parametrize("name", ["source", "target"])
def test_no_image_is_trained_on_and_validated_on(config: Config, tmp_path: Path, name: str) -> None:
    own = tmp_path / "own"
    (own / "images").mkdir(parents=True)
    (own / "labels").mkdir()
    for path in (tmp_path / "gta5" / "images").iterdir():
        shutil.copy(path, own / "images")
        shutil.copy(tmp_path / "gta5" / "labels" / path.name, own / "labels")
    other = tmp_path / "other"
    shutil.copytree(own, other)
    roots = {"source": str(other), "target": str(other), name: str(own)}
    (tmp_path / "link").symlink_to(own)
    for val in (own, tmp_path / "link"):
        layout = {"source_layout": "gta5", "target_layout": "gta5"}
        data = replace(config.data, val=str(val), **roots, **layout)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=f"in the {name} training images and in the valid"):
            open_training_data(replace(config, data=data), Silent())


def test_unlabelled_images_whose_labels_the_source_has_are_told(
    config: Config, tmp_path: Path
) -> None:
    class Lines(Silent):
        def line(self, text: str) -> None:
            lines.append(text)

    lines: list[str] = []
    open_training_data(config, Lines())
    assert lines == []
    (tmp_path / "link").symlink_to(tmp_path / "city")
    data = replace(config.data, source=str(tmp_path / "link"), source_layout="cityscapes")
    open_training_data(replace(config, data=data), Lines())
    (line,) = lines
    assert line.startswith("2 of the 2 unlabelled target images are source images too, such as ")
    lines.clear()
    open_training_data(replace(config, data=data, labelled=3), Lines())
    assert lines == []


def test_a_missing_root_is_named(config: Config) -> None:
    missing = replace(config, data=replace(config.data, val="nowhere"))
    with pytest.raises(UserError, match="--data-val: nowhere: no such directory"):
        open_training_data(missing, Silent())
