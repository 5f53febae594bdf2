"""A run directory with anything in it: nothing outside is reached, nothing foreign is removed."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from properties import examples, texts, values

from fastass.checkpoint.json_file import read_json, read_result
from fastass.checkpoint.own_files import MARK, is_begun, is_empty, is_marked, mark_text, remove_run
from fastass.checkpoint.pointers import FILES, POINTERS, list_checkpoints, point, target
from fastass.errors import UserError

OWN = (
    "config.yaml", "labelled.txt", "inputs.json", "metrics.jsonl", "summary.json",
    "class_means.json", "contact_sheet.png", "examples/0.jpg", "examples/12-truth.png",
    "tensorboard/events.out.tfevents.1.host", "last", "best", "start", ".last.tmp",
    *(f"checkpoints/step-00000002/{name}" for name in FILES),
    "checkpoints/step-00000003~/model.safetensors", "checkpoints/.step-00000004.tmp/state.pt",
    "checkpoints/.step-00000005~.tmp/state.pt.part",
)  # fmt: skip
FOREIGN = (
    "notes.txt", "config.yml", "labelled.txt.bak", "summary.json/x", "last/mine.pth",
    "checkpoints/mine.pth", "checkpoints/step-2/state.pt", "checkpoints/step-00000002/mine",
    "checkpoints/step-00000002x/model.safetensors", "checkpoints/step-00000003~~/state.pt",
    "checkpoints/.step-00000004.tmp/mine", "examples/me.jpg", "examples/0.jpg.txt",
    "tensorboard/mine", "examples2/0.jpg", "deep/checkpoints/step-00000002/model.safetensors",
)  # fmt: skip


def write(root: Path, name: str) -> bool:
    """Write a file, unless another stands in its way."""
    path = root / name
    if any(parent.is_file() for parent in path.parents) or path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return True


@examples(2)
@given(st.lists(st.sampled_from(OWN), unique=True), st.lists(st.sampled_from(FOREIGN), unique=True))
def test_only_own_files_are_removed(own: list[str], foreign: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kept = [name for name in foreign if write(root, name)]
        gone = [name for name in own if write(root, name)]
        remove_run(root)
        assert [name for name in kept if (root / name).read_text() != name] == []
        assert [name for name in gone if (root / name).exists()] == []


steps = st.lists(st.integers(0, 10**9), max_size=5, unique=True)
pointed = (
    texts
    | st.sampled_from(["checkpoints/step-00000002", "checkpoints/../..", "/etc", "checkpoints/"])
    | st.builds("{}/step-{:08d}{}".format, texts, st.integers(0, 9), texts)
)


@examples(2)
@given(steps, pointed, st.sampled_from(POINTERS))
def test_a_pointer_leads_to_a_checkpoint_of_its_run_or_nowhere(
    found: list[int], text: str, name: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for step in (*found, 2):
            (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
        checkpoints = list_checkpoints(run)
        assert [int(path.name[5:]) for path in checkpoints] == sorted({*found, 2}, reverse=True)
        (run / name).write_bytes(text.encode())
        reached = target(run, name)
        assert reached is None or reached in checkpoints
        for checkpoint in checkpoints:
            point(run, name, checkpoint)
            assert target(run, name) == checkpoint


def test_the_mark_is_known() -> None:
    assert json.loads(mark_text())["kind"] == "run"


@examples(2)
@given(st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode()))
def test_small_files_are_used_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in (MARK, "metrics.jsonl"):
            (root / name).write_bytes(content)
        if is_marked(root):
            assert json.loads(content)["kind"] == "run"
        assert is_empty(root) == (b'"eval"' not in content)
        assert not is_begun(root)
        for read in (read_json, lambda path: read_result(path, ["miou"])):
            result: Any = None
            try:
                result = read(root / MARK)
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert len(str(error)) < 2000  # noqa: PT017
            assert result is None or isinstance(result, dict)
