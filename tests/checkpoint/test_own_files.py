"""What a run directory is, and what is removed from it."""

import json
from pathlib import Path

import pytest

from fastass.checkpoint.evaluations import evaluations
from fastass.checkpoint.json_file import read_json, read_result
from fastass.checkpoint.own_files import (
    CONFIG,
    INPUTS,
    LABELLED,
    MARK,
    METRICS,
    SUMMARY,
    is_begun,
    is_earlier_run,
    is_empty,
    is_marked,
    mark_text,
    remove_run,
)
from fastass.checkpoint.pointers import MODEL
from fastass.checkpoint.run_lock import LOCK
from fastass.config.schema import Config
from fastass.config.text import to_yaml
from fastass.errors import UserError


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"kind": "book"}', "[" * 100_000])
def test_the_mark(tmp_path: Path, text: str) -> None:
    assert not is_marked(tmp_path)
    (tmp_path / MARK).write_text(text)
    assert not is_marked(tmp_path)
    (tmp_path / MARK).write_text(mark_text())
    assert is_marked(tmp_path)
    assert set(json.loads(mark_text())) == {"kind", "fastass"}
    assert mark_text().endswith("}\n")


def test_a_run_is_begun_until_its_configuration_is_there(tmp_path: Path) -> None:
    assert is_begun(tmp_path)
    for name in (LOCK, MARK, LABELLED, INPUTS):
        (tmp_path / name).touch()
        assert is_begun(tmp_path)
    for name in (MARK, LABELLED, INPUTS, CONFIG):
        (tmp_path / f".{name}.tmp").touch()
        assert is_begun(tmp_path)
    (tmp_path / CONFIG).touch()
    assert not is_begun(tmp_path)


def test_an_earlier_run_has_a_configuration_and_a_checkpoint_with_weights(tmp_path: Path) -> None:
    step = tmp_path / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    (step / MODEL).touch()
    assert not is_earlier_run(tmp_path)
    (tmp_path / CONFIG).write_text("a: tool\n")
    assert not is_earlier_run(tmp_path)
    (tmp_path / CONFIG).write_text(to_yaml(Config()))
    assert is_earlier_run(tmp_path)
    step.rename(step.with_name("step-00000001~"))
    assert is_earlier_run(tmp_path)
    (step.with_name("step-00000001~") / MODEL).unlink()
    assert not is_earlier_run(tmp_path)


def test_checkpoints_results_and_evaluations_are_something_to_lose(tmp_path: Path) -> None:
    assert is_empty(tmp_path)
    (tmp_path / METRICS).write_text('{"step": 1, "terms": {}}\n')
    assert is_empty(tmp_path)
    (tmp_path / METRICS).write_text('{"step": 1, "eval": {}}\n')
    assert not is_empty(tmp_path)
    (tmp_path / METRICS).unlink()
    (tmp_path / SUMMARY).touch()
    assert not is_empty(tmp_path)
    (tmp_path / SUMMARY).unlink()
    for name in ("step-00000001", "step-00000001~"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        assert not is_empty(tmp_path)
        (tmp_path / "checkpoints" / name).rmdir()
    assert is_empty(tmp_path)


def test_own_files_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    own = (
        "examples/0.jpg",
        "examples/12-truth.png",
        "tensorboard/events.out.tfevents.1",
        SUMMARY,
        f".{SUMMARY}.tmp",
        CONFIG,
        METRICS,
        f"last/{MODEL}",
        "checkpoints/step-00000001/state.pt",
        "checkpoints/step-00000002~/state.pt",
        "checkpoints/.step-00000003.tmp/state.pt",
    )
    others = ("examples/me.jpg", "tensorboard/layout.json", "notes.txt", "checkpoints/mine.pth")
    for name in (*own, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_run(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(others)
    assert not (tmp_path / "last").exists()
    for name in others:
        (tmp_path / name).unlink()
    remove_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_not_followed(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    mine.mkdir()
    for name in ("0.jpg", "events.out.tfevents.1", MODEL):
        (mine / name).touch()
    (run / "checkpoints").mkdir(parents=True)
    for name in ("examples", "tensorboard", "last"):
        (run / name).symlink_to(mine)
    (run / SUMMARY).symlink_to(mine / "0.jpg")
    (run / "examples2").mkdir()
    for name in (MARK, LOCK):
        (run / name).touch()
    remove_run(run)
    assert len(list(mine.iterdir())) == 3
    left = {path.name for path in run.iterdir()}
    assert left == {"examples", "tensorboard", "examples2", MARK, LOCK}


def test_a_folder_with_the_name_of_an_own_file_stays(tmp_path: Path) -> None:
    for name in ("examples/0.jpg", "tensorboard/events.out.tfevents.1"):
        (tmp_path / name).mkdir(parents=True)
    remove_run(tmp_path)
    assert (tmp_path / "examples" / "0.jpg").is_dir()


def test_evaluations_are_read_past_damage(tmp_path: Path) -> None:
    assert evaluations(tmp_path) == []
    lines = ['{"step": 2, "eval": {"miou": 1.0}}', '{"step": 3, "terms": {}}', "{", "3", "[]",
             '{"eval": {}}', '{"step": [], "eval": {}}', '{"step": 4, "eval": 5}', "[" * 100_000,
             '{"step": "6", "eval": {"miou": 2.0}}']  # fmt: skip
    (tmp_path / METRICS).write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    assert evaluations(tmp_path) == [(2, {"miou": 1.0}), (6, {"miou": 2.0})]


def test_a_json_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json: no such file$"):
        read_json(path)
    with pytest.raises(UserError, match=r": can't be read: Is a directory$"):
        read_json(tmp_path)
    for text in ("", "{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a\.json: damaged: ") as caught:
            read_json(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b'{"a": "' + b"x" * 500 + b"\xff" * 300)
    with pytest.raises(UserError, match="damaged"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match=r"damaged: expected keys and values$"):
        read_json(path)
    path.write_text('{"a": 1, "b": null}')
    assert read_result(path, ["a", "b"]) == {"a": 1, "b": None}
    with pytest.raises(UserError, match=r"damaged: c is missing$"):
        read_result(path, ["a", "c", "d"])
