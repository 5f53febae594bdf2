"""Hostile, damaged and foreign files of a run: one line, or the fallback of a damaged checkpoint.

Looked at every reader of a run directory, a checkpoint, an exported folder and a weight file:
`read_json`, `read_yaml`, `load_weights`, `read_state`, `_use`, `forget_after`, `evaluations`,
`read_run`, `pictures`, `read_result`, `load`. YAML itself: tests/config/test_text.py.
"""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from PIL import Image

import fastass
from fastass.checkpoint.files import find_checkpoint, read_state
from fastass.checkpoint.pointers import CHECKSUMS, STATE, list_checkpoints
from fastass.cli.main import main
from fastass.errors import USER_ERRORS, UserError
from fastass.inference.load import load
from fastass.models.weights.files import load_weights
from fastass.report.page import write_report

DEEP = "[" * 100_000

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(city, a finished run). Not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    city = tiny_runs.city(root / "city")
    assert main(tiny_runs.train(city, root / "run")) == 0
    return city, root / "run"


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(finished[1], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("text", ["{}", "{", "[]", "\xff", DEEP, '{"start": 3}', '{"miou": "x"}'])
def test_a_damaged_summary_is_written_again(
    text: str, run: Path, finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").write_bytes(text.encode("latin-1"))
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert "it is written again" in capsys.readouterr().out
    tiny_runs.assert_same(run, finished[1])


def change_state(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another state under a checkpoint, without its checksum."""
    state = read_state(path)
    change(state)
    torch.save(state, path / STATE)
    sums = json.loads((path / CHECKSUMS).read_text())
    del sums[STATE]
    (path / CHECKSUMS).write_text(json.dumps(sums))


def oversized(state: dict[str, Any]) -> None:
    state["x"] = torch.zeros(1).expand(200_000, 200_000)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an extra key": lambda s: s["position"].update(more=1),
    "a missing key": lambda s: s["position"].pop("best"),
    "a text for a number": lambda s: s["position"].update(step="4"),
    "scores without mIoU": lambda s: s["position"].update(last={}),
    "no position": lambda s: s.pop("position"),
    "no engine": lambda s: s.pop("engine"),
    "an engine that is a list": lambda s: s.update(engine=[]),
    "no random state": lambda s: s["engine"].pop("rng"),
    "a random state of floats": lambda s: s["engine"].update(rng=torch.zeros(3)),
    "optimizers of another kind": lambda s: s["engine"].update(optimizers={}),
    "too large a tensor": oversized,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_foreign_state_falls_back(
    kind: str, run: Path, finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    newest, before = list_checkpoints(run)[:2]
    (run / "summary.json").unlink()
    change_state(newest, CHANGES[kind])
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    said = capsys.readouterr().out
    assert "falling back to the checkpoint before it" in said
    assert f"resuming {run} at step {int(before.name[5:])}" in said
    tiny_runs.assert_same(run, finished[1])


def test_moments_of_another_shape_fall_back(
    run: Path, finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(state: dict[str, Any]) -> None:
        moments = state["engine"]["optimizers"]["generator"]["state"]
        moments[0]["momentum_buffer"] = torch.zeros(2, 2)

    (run / "summary.json").unlink()
    change_state(list_checkpoints(run)[0], change)
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert "incomplete or of another kind" in capsys.readouterr().out
    tiny_runs.assert_same(run, finished[1])


def test_texts_that_are_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "summary.json").unlink()
    labelled = (run / "labelled.txt").read_bytes()
    (run / "labelled.txt").write_bytes(b"\xff\xfe")
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 2
    assert "labelled.txt: damaged: it is no text" in capsys.readouterr().err
    (run / "labelled.txt").write_bytes(labelled)
    lines = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"\xff\n" + DEEP.encode() + b"\n3\n" + lines + b'{"st')
    (run / "inputs.json").write_text(DEEP)
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 2
    assert "inputs.json: damaged" in capsys.readouterr().err
    (run / "inputs.json").unlink()
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert (run / "metrics.jsonl").read_bytes() == lines


def test_a_run_without_metrics_ends_with_a_summary(run: Path) -> None:
    for name in ("summary.json", "metrics.jsonl"):
        (run / name).unlink()
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert json.loads((run / "summary.json").read_text())["selection"]["evaluations_in_mean"] == 1


def test_weight_files_that_grow(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    torch.save({"conv1.weight": torch.zeros(1).expand(200_000, 200_000)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match=r"refused, conv1\.weight is not stored whole"):
        load_weights(path)
    torch.save({"w": torch.zeros(3).to_sparse()}, path)
    with pytest.raises(UserError, match=r"large\.pth"):
        load_weights(path)
    torch.save({"w": torch.zeros(3_000_000)}, path)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        for item in plain.infolist():
            z.writestr(item.filename, plain.read(item))
    assert packed.stat().st_size < 100_000
    with pytest.raises(UserError, match="refused, a compressed archive"):
        load_weights(packed)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.json", DEEP), ("classes.json", '{"names": ["a"], "colors": [[1, 2, 3]]}'),
        ("classes.json", '{"names": 5, "colors": {}}'), ("config.yaml", "a: &a [*a]"),
        ("config.yaml", "model: {width: 1000000000}"), ("checksums.json", DEEP),
        ("config.yaml", "model: {backbone: tiny, width: 4096, num_classes: 19}"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_others(name: str, text: str, run: Path) -> None:
    checkpoint = find_checkpoint(run)
    (checkpoint / name).write_text(text)
    with pytest.raises(UserError) as caught:
        load(checkpoint, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_exported_folder_of_others(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert main(["export", str(run), "--format", "safetensors", "--out", str(out)]) == 0
    file = out / "config.json"
    right = json.loads(file.read_text())
    changes: list[tuple[str, Any]] = [
        ("model", {"width": 4096}), ("model", 3), ("model", {"backbone": []}), ("classes", []),
        ("classes", [{"name": 1, "color": "red"}] * 19), ("preprocessing", {}), ("report", 5),
        ("preprocessing", {"size": [1e9, 1], "normalize": "bgr"}),
        ("preprocessing", {"size": [64, 32], "normalize": []}),
    ]  # fmt: skip
    for key, value in changes:
        file.write_text(json.dumps({**right, key: value}))
        with pytest.raises(UserError):
            fastass.load(out, device="cpu")
    file.write_text(DEEP)
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        fastass.load(out, device="cpu")


def test_a_report_of_anything(run: Path, tmp_path: Path) -> None:
    lines = [
        '{"step": Infinity, "terms": {}, "images_per_second": 1, "data_wait": 0}',
        '{"step": 1, "terms": {"seg_source": NaN}, "images_per_second": 1, "data_wait": 0}',
        '{"step": 1e300, "terms": {}, "images_per_second": 1e300, "data_wait": 0}',
        '{"step": -4, "terms": {}, "images_per_second": 1, "data_wait": 0}',
        DEEP, "5", '{"step": 2, "eval": {"miou": 1e99}}', '{"step": [], "eval": 5}',
    ]  # fmt: skip
    (run / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    summary = json.loads((run / "summary.json").read_text())
    changed = {"images_per_second": "many", "training_seconds": 1e999, "versions": [1], "amp": 0}
    (run / "summary.json").write_text(json.dumps({**summary, **changed}))
    (run / "config.yaml").write_text("start_steps: [1]\nsteps: .inf\nmethod: {a: 1}\npreset: 5\n")
    (run / "class_means.json").write_text('{"start": {"x": DEEP}, "last": 5}'.replace("DEEP", DEEP))
    huge = Image.new("L", (1, 1))
    buffer = io.BytesIO()
    huge.save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    for path in (run / "examples").glob("0*"):
        path.write_bytes(data)
    notes = write_report([run], tmp_path / "page.html")
    assert len(notes) > 8
    assert all("\n" not in note for note in notes)


SMALL_FILES = (
    "config.yaml", "labelled.txt", "inputs.json", "metrics.jsonl", "summary.json", "fastass.json",
    "class_means.json", "last", "best", "start",
)  # fmt: skip


HOSTILE = (b"\xff", b"NaN", b"1e999", b"[[[[", b"null", b"{}", b"-", b"\n", b"&a *a")


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, a part cut out, doubled, or replaced by something hostile."""
    content = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        match draw.randrange(5):
            case 0 if content:
                content[at % len(content)] ^= 1 << draw.randrange(8)
            case 1:
                del content[at : at + draw.randint(1, 40)]
            case 2:
                content[at:at] = content[at : at + draw.randint(1, 40)]
            case 3:
                hostile = (
                    b"\xff",
                    b"NaN",
                    b"1e999",
                    b"[[[[",
                    b"null",
                    b"{}",
                    b"-",
                    b"\n",
                    b"&a *a",
                )
                content[at:at] = draw.choice(hostile)
            case _:
                del content[at:]
    return bytes(content)


def fuzz(run: Path, city: Path, rounds: int, seed: int) -> dict[str, int]:
    """Mutate one file of a run, then report, load and resume it: a result, or one line."""
    draw, outcomes = random.Random(seed), {"fine": 0, "refused": 0}
    for i in range(rounds):
        copy = run.with_name(f"copy{i}")
        shutil.copytree(run, copy)
        checkpoint = find_checkpoint(copy)
        files = [copy / name for name in SMALL_FILES]
        files += [checkpoint / name for name in ("config.yaml", "classes.json", "checksums.json")]
        file = draw.choice(files)
        file.write_bytes(mutated(file.read_bytes(), draw))
        words = ["train", "--out", str(copy), "--resume", "--plain", "--workers", "0"]
        tries: list[Callable[[], Any]] = [
            lambda copy=copy: write_report([copy], copy.with_name("page.html")),  # type: ignore[misc]
            lambda copy=copy: load(copy, device="cpu"),  # type: ignore[misc]
        ]
        for each in tries:
            try:
                each()
                outcomes["fine"] += 1
            except USER_ERRORS as error:
                outcomes["refused"] += 1
                if "\n" in str(error):
                    raise AssertionError(f"{file}: more than one line") from error
        code = main(words)
        assert code in (0, 1, 2), (file, code)
        outcomes["fine" if code == 0 else "refused"] += 1
        shutil.rmtree(copy)
    return outcomes


def test_a_mutated_run_is_used_or_refused(run: Path, finished: tuple[Path, Path]) -> None:
    outcomes = fuzz(run, finished[0], rounds=12, seed=0)
    assert sum(outcomes.values()) == 36


@pytest.mark.slow
def test_many_mutated_runs(run: Path, finished: tuple[Path, Path]) -> None:
    outcomes = fuzz(run, finished[0], rounds=400, seed=1)
    print(outcomes)
    assert min(outcomes.values()) > 100
