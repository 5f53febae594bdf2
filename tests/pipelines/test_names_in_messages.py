"""Names that files bring with them: escaped where they are printed, never followed where we write.

Looked at: every DataError (escaped when it is made); what `fastass pack`, `pack --verify` and
`fastass toycity` print; the reasons of bad samples (DataErrors, in manifests and in the loaders'
lines); every temporary name in pipelines/ (shards, indexes, the manifest and the mark of a packed
directory, ToyCity's manifest and mark). Images of ToyCity are written into folders that it has
just made.
"""

import pickle
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest

from fastass.cli.main import main
from fastass.pipelines.datasets.decode import read_image
from fastass.pipelines.datasets.layouts import open_dataset, open_images
from fastass.pipelines.durable import write_durably
from fastass.pipelines.errors import DataError, printable
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.toycity import dataset, generate

HOSTILE = "\x1b]0;pwned\x07 a"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße …/é 日本.png", "Straße …/é 日本.png"),
        (HOSTILE, "\\x1b]0;pwned\\x07 a"),
        ("a\nb\r\x9b31m", "a\\nb\\r\\x9b31m"),
        ("undecodable \udcff", "undecodable \\udcff"),
        ("right to left \u202e", "right to left \\u202e"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    error = DataError(f"{text}: damaged")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"{shown}: damaged"
    str(error).encode()  # can be printed


def test_damaged_file_with_a_hostile_name(tmp_path: Path) -> None:
    (tmp_path / f"{HOSTILE}.png").write_bytes(b"no image")
    sample = open_images(tmp_path).samples[0]
    with pytest.raises(DataError, match=r"\\x1b\]0;pwned\\x07 a\.png: damaged"):
        read_image(sample)


def test_pack_prints_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files.folder(tmp_path / "data", 2)
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (root / kind / f"0.{suffix}").rename(root / kind / f"{HOSTILE}\udcff.{suffix}")
    (root / "images" / f"{HOSTILE}\udcff.jpg").write_bytes(b"no image")
    out = tmp_path / f"out {HOSTILE}"
    words = ["pack", "--root", str(root), "--size", "20x12", "--out", str(out), "--workers", "1"]
    assert main(words) == 2
    assert main([*words, "--on-bad-sample", "skip"]) == 0
    (out / f"shard-{HOSTILE}.tar").write_bytes(b"")
    assert main(["pack", "--verify", str(out)]) == 2
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert "bad sample \\x1b]0;pwned\\x07 a\\udcff: " in printed
    assert "shard-\\x1b]0;pwned" in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.json.part").symlink_to(victim)
    write_durably(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"
    assert not (tmp_path / "a.json").is_symlink()
    assert victim.read_text() == "mine"


def test_pack_does_not_write_through_planted_links(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine")
    out.mkdir()
    for name in ("packing.json", "shard-00000.tar", "shard-00000.json", "manifest.json"):
        (out / f"{name}.part").symlink_to(victim)
    assert pack(open_dataset(files.gta5(tmp_path / "gta5", 2)), out, (20, 12), workers=1).complete
    assert victim.read_text() == "mine"


def test_toycity_does_not_write_through_planted_links(tmp_path: Path) -> None:
    victim, other, root = tmp_path / "victim", tmp_path / "other", tmp_path / "city"
    victim.write_text("mine")
    other.mkdir()
    root.mkdir()
    (root / dataset.UNFINISHED).symlink_to(victim)
    (root / f"{dataset.MANIFEST}.tmp").symlink_to(victim)
    (root / "gta5").symlink_to(other)
    small: dict[str, Any] = {"source_size": (64, 32), "target_size": (64, 32), "workers": 1}
    with pytest.raises(DataError, match="gta5: is a symbolic link; remove it"):
        generate(root, 1, 1, **small)
    assert not list(other.iterdir())
    (root / "gta5").unlink()
    generate(root, 1, 1, **small)
    assert victim.read_text() == "mine"
