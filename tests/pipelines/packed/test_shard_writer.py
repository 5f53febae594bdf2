import subprocess
import sys
from pathlib import Path

import pytest
from packed_files import packed

from fastass.pipelines.packed.shard_writer import member_header, padding, record_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("00001", "0000007-00001"),
        ("aachen/aachen_000000_000019", "0000007-aachen-aachen_000000_000019"),
        ("../../etc/passwd", "0000007--etc-passwd"),
        ("a.b c\n\u00e9\udcff", "0000007-a-b-c-"),
        ("x" * 300, "0000007-" + "x" * 72),
    ],
)
def test_keys_are_safe_member_names(name: str, key: str) -> None:
    assert record_key(7, name) == key
    assert len(member_header(f"{key}.seg.raw", 1)) == 512


def test_padding() -> None:
    assert [padding(size) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


def test_dali_index_is_what_wds2idx_writes(tmp_path: Path) -> None:
    pytest.importorskip("wds2idx")
    root = packed(tmp_path)
    for shard in root.glob("*.tar"):
        command = [sys.executable, "-m", "wds2idx", str(shard), str(tmp_path / "made.idx")]
        subprocess.run(command, check=True, capture_output=True)
        assert (tmp_path / "made.idx").read_bytes() == shard.with_suffix(".idx").read_bytes()
