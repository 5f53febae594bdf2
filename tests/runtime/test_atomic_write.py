"""Only what fastass wrote is replaced. Looked at: `eval --json`, `report --out`, `predict --out`
(tests/inference/test_predict_files.py), `export --out` (test_export.py), runs, `pack` and
`toycity` (by their marks)."""

import json
import os
from pathlib import Path

import pytest

from fastass.cli.main import main
from fastass.errors import UserError
from fastass.runtime.atomic_write import check_replaceable, write_whole


def test_only_a_file_with_the_mark_is_replaceable(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    check_replaceable(file, "mark", "a result")
    file.write_text('{"mark": 1}')
    check_replaceable(file, "mark", "a result")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    file.write_bytes(b"\xff" * 5000 + b"mark")
    for name in ("x.json", "folder", "dangling", "pipe"):
        with pytest.raises(UserError, match=f"{name}: exists and is not a result; move it away"):
            check_replaceable(tmp_path / name, "mark", "a result")
    with pytest.raises(UserError, match=r"gone: no such directory, for x.json"):
        check_replaceable(tmp_path / "gone" / "x.json", "mark", "a result")


@pytest.mark.parametrize("code", [0xDCFF, 0xD800])  # of a path; of a hostile JSON file
def test_a_text_that_is_no_utf8_is_escaped(tmp_path: Path, code: int) -> None:
    write_whole(tmp_path / "page", f"a{chr(code)}b")
    assert (tmp_path / "page").read_text(encoding="utf-8") == f"a\\u{code:x}b"


def test_eval_leaves_other_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text(json.dumps({"mine": 1}))
    assert main(["eval", str(tmp_path), "--data", "x", "--json", str(notes)]) == 2
    assert "notes.json: exists and is not a result of fastass eval" in capsys.readouterr().err
    assert json.loads(notes.read_text()) == {"mine": 1}
