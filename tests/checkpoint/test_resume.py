"""With what a run may go on, and what must be as it was: function by function.

Whole runs are resumed in test_run_directory.py; changed data: test_fingerprint.py.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastass.checkpoint.own_files import CONFIG, INPUTS, LABELLED
from fastass.checkpoint.resume import (
    FREE,
    adopt_roots,
    check_same,
    fit_ranks,
    weights_fingerprint,
    with_absolute_paths,
)
from fastass.config.schema import Config
from fastass.config.text import leaves, override, to_yaml, value_at
from fastass.errors import UserError


def config(**values: Any) -> Config:
    return override(Config(), {name.replace("__", "."): value for name, value in values.items()})


def run_of(path: Path, saved: Config, labelled: tuple[str, ...] = ("a", "b")) -> Path:
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text(to_yaml(saved))
    (path / LABELLED).write_text("".join(f"{name}\n" for name in labelled))
    return path


def same(run: Path, config: Config, labelled: Any = ("a", "b"), inputs: Any = None) -> list[str]:
    notes: list[str] = []
    check_same(run, config, labelled, inputs or {}, {}, notes.append)
    return notes


# Ranks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "accumulate", "batch"), [(1, 1, 12), (2, 1, 6), (1, 3, 4), (2, 3, 2), (12, 1, 1)]
)
def test_the_global_batch_is_kept_on_other_ranks(
    tmp_path: Path, world: int, accumulate: int, batch: int
) -> None:
    saved = config(batch=12, accumulate=accumulate)
    now = replace(saved, distributed=replace(saved.distributed, world=world))
    run = run_of(tmp_path / "run", replace(saved, batch=12 // accumulate))
    fitted = fit_ranks(run, replace(now, batch=12 // accumulate))
    assert (fitted.batch, fitted.accumulate) == (batch, accumulate)


def test_batch_and_accumulation_stay_as_given(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config(batch=6, accumulate=2))
    for batch, accumulate in ((3, 4), (6, 3), (5, 2)):
        given = config(batch=batch, accumulate=accumulate)
        assert fit_ranks(run, given) is given
    assert fit_ranks(run, config(batch="auto", accumulate=3)).batch == 4
    assert fit_ranks(run, config(batch="auto", accumulate=2)).batch == 6


@pytest.mark.parametrize(("batch", "world"), [(6, 4), (6, 5), (2, 3)])
def test_ranks_that_do_not_divide_the_batch(tmp_path: Path, batch: int, world: int) -> None:
    saved = config(batch=batch)
    run = run_of(tmp_path / "run", saved)
    now = replace(saved, distributed=replace(saved.distributed, world=world))
    message = rf"on {world} ranks: the run's global batch of {batch} does not divide; give --batch"
    with pytest.raises(UserError, match=message):
        fit_ranks(run, now)


def test_another_global_batch(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config(batch=6, accumulate=2))
    assert same(run, config(batch=3, accumulate=4)) == []
    with pytest.raises(
        UserError, match=r"batch of 15 = --batch 5 × --accumulate 3 × 1 ranks; the run has 12$"
    ):
        same(run, config(batch=5, accumulate=3))


# Roots and paths ----------------------------------------------------------------------------------


def test_the_runs_roots_take_the_place_of_those_not_given(tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("source", "target", "val", "other")}
    for root in roots.values():
        root.mkdir()
    texts = {name: str(root) for name, root in roots.items()}
    saved = config(data__source=texts["source"], data__target=texts["target"])
    run = run_of(tmp_path / "run", saved)
    assert adopt_roots(run, config()).data == saved.data
    given = adopt_roots(run, config(data__source=texts["other"], data__val=texts["val"]))
    assert given.data.source == texts["other"]
    assert given.data.target == texts["target"]
    assert given.data.val == texts["val"]
    roots["target"].rmdir()
    with pytest.raises(
        UserError, match=r"the run's target data .*/target is not there; give --data-target DIR"
    ):
        adopt_roots(run, config())
    with pytest.raises(UserError, match="target data"):
        adopt_roots(run, config(data__target=texts["target"]))
    assert adopt_roots(run, config(data__target=texts["other"])).data.target == texts["other"]


def test_one_of_several_archives_is_gone(tmp_path: Path) -> None:
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    for path in (first, second):
        path.touch()
    run = run_of(tmp_path / "run", config(data__source=f"{first},{second}"))
    assert adopt_roots(run, config()).data.source == f"{first},{second}"
    second.unlink()
    with pytest.raises(UserError, match="source data"):
        adopt_roots(run, config())


def test_the_runs_list_takes_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", config()), tmp_path / "list.txt"
    assert adopt_roots(run, config()).labelled_list is None
    assert adopt_roots(run, config(labelled_list=str(file))).labelled_list == str(run / LABELLED)
    file.touch()
    assert adopt_roots(run, config(labelled_list=str(file))).labelled_list == str(file)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = config(
        data__source="a.zip,b.zip", data__target="city", labelled_list="l.txt", init="w.pth"
    )
    found = with_absolute_paths(given)
    assert found.data.source == f"{tmp_path}/a.zip,{tmp_path}/b.zip"
    assert found.data.target == f"{tmp_path}/city"
    assert found.data.val is None
    assert found.labelled_list == f"{tmp_path}/l.txt"
    assert found.init == f"{tmp_path}/w.pth"
    for name in (None, "none", "imagenet", "pretrained", "https://host/w.pth"):
        assert with_absolute_paths(config(init=name)).init == name


# Values -------------------------------------------------------------------------------------------


def numbers() -> dict[str, tuple[Any, Any]]:
    """Path → (value, another one in its range) of numbers and switches that a result depends on."""
    found: dict[str, tuple[Any, Any]] = {}
    for leaf in leaves():
        value = value_at(config(), leaf.path)
        if isinstance(value, bool):
            found[leaf.path] = (value, not value)
        elif isinstance(value, int):
            found[leaf.path] = (value, value + 1)
        elif isinstance(value, float):
            found[leaf.path] = (value, value / 2 or 0.25)
    names = ("optim.lr", "optim.layer_decay", "loss.gadv", "seed", "steps", "start_steps",
             "model.align_corners", "labelled", "optim.momentum")  # fmt: skip
    return {name: found[name] for name in names}


@pytest.mark.parametrize("path", numbers())
def test_what_a_run_computes_may_not_change(tmp_path: Path, path: str) -> None:
    leaf = next(each for each in leaves() if each.path == path)
    old, new = numbers()[path]
    run = run_of(tmp_path / "run", config())
    no = leaf.flag.replace("--", "--no-", 1)
    flag = (leaf.flag if old else no) if isinstance(old, bool) else f"{leaf.flag} {old}"
    message = f"can't resume with {path} = {new!r}, the run has {old!r}; give {flag}, or take all"
    with pytest.raises(UserError, match=re.escape(message)):
        same(run, override(config(), {path: new}))


def test_the_value_that_was_given_is_named(tmp_path: Path) -> None:
    """Not what follows from it: other labelled images, another number of classes."""
    run = run_of(tmp_path / "run", config())
    with pytest.raises(
        UserError, match=r"can't resume with labelled = 3, .* give --labelled 0, or"
    ):
        same(run, config(labelled=3), ("a", "b", "c"))
    with pytest.raises(UserError, match="can't resume with labelled_seed = 9"):
        same(run, config(labelled_seed=9), ("c",))
    with pytest.raises(UserError, match=r"can't resume with data\.classes = .* --data-classes"):
        same(run, config(data__classes="road,car", model__num_classes=2))
    with pytest.raises(UserError, match="; give --data-target-size 1024x512, or take all"):
        same(run, config(data__target_size=(64, 32)))
    with pytest.raises(UserError, match="; give --data-scale none, or take all"):
        same(run, config(data__scale=(0.5, 2.0)))


def test_how_a_run_computes_may_change(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config(data__source="/a", runtime__device="cpu"))
    free = config(
        data__source="/b", runtime__device="cuda", eval_every=7, log="tensorboard",
        data__workers=9, labelled_list="/l", backward="streamed",
    )  # fmt: skip
    assert same(run, free) == []
    assert {leaf.path for leaf in leaves()} >= FREE


def test_the_base_of_a_scale_that_is_not_used_may_change(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", config())
    assert same(run, config(optim__base_batch=3)) == []
    with pytest.raises(UserError, match=r"runtime\.amp"):  # what comes after it is compared
        same(run, config(optim__base_batch=3, runtime__amp=True))
    scaled = config(optim__scale_lr="sqrt")
    run = run_of(tmp_path / "b", scaled)
    with pytest.raises(UserError, match="base_batch"):
        same(run, override(scaled, {"optim.base_batch": 3}))


def test_names_of_an_earlier_version_are_noted(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config())
    text = (run / CONFIG).read_text()
    assert "  amp: false\n" in text
    (run / CONFIG).write_text(text.replace("  amp: false\n", "") + "amp: true\n")
    (line,) = same(run, config(runtime__amp=True))
    assert "amp" in line


# Images -------------------------------------------------------------------------------------------


def test_the_labelled_images_are_those_of_the_list(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config())
    assert same(run, config()) == []
    for names in ((), ("a",), ("b", "a"), ("a", "b", "c")):
        with pytest.raises(UserError, match=r"labelled images are not those of labelled\.txt"):
            same(run, config(), names)
    (run / LABELLED).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"labelled\.txt: damaged: it is no text"):
        same(run, config())
    (run / LABELLED).unlink()
    with pytest.raises(UserError, match=r"labelled\.txt: can't be read: No such file"):
        same(run, config())


def test_every_data_set_is_compared(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config())
    now = {name: {"images": 2, "names": name} for name in ("source", "target", "val")}
    (run / INPUTS).write_text(json.dumps(now))
    assert same(run, config(), inputs=now) == []
    for name in now:
        with pytest.raises(UserError, match=rf"the {name} images are not .* \(2 → 3 images\)"):
            same(run, config(), inputs={**now, name: {"images": 3, "names": name}})
        without = {other: value for other, value in now.items() if other != name}
        with pytest.raises(UserError, match=rf"the {name} images are not .* \(2 → 0 images\)"):
            same(run, config(), inputs=without)
        (run / INPUTS).write_text(json.dumps(without))  # of a run without this set
        assert same(run, config(), inputs=now) == []
        (run / INPUTS).write_text(json.dumps(now))
    (run / INPUTS).write_text("{")
    with pytest.raises(UserError, match=r"inputs\.json: damaged"):
        same(run, config(), inputs=now)


# Weights to start from ----------------------------------------------------------------------------


def weight_file(path: Path, value: float) -> Path:
    torch.save({"conv1.weight": torch.full((2,), value)}, path)
    return path


def test_a_checksum_of_the_weights_to_start_from(tmp_path: Path) -> None:
    for init in (None, "none", "imagenet", "pretrained", str(tmp_path / "absent.pth")):
        assert weights_fingerprint(init) == {}
    first, second = (weight_file(tmp_path / f"{v}.pth", v) for v in (1.0, 2.0))
    assert set(weights_fingerprint(str(first))) == {"crc32"}
    assert weights_fingerprint(str(first)) != weights_fingerprint(str(second))


def test_weights_may_move_and_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = weight_file(tmp_path / "a.pth", 1.0)
    other = weight_file(tmp_path / "b.pth", 2.0)
    run = run_of(tmp_path / "run", config(init=str(first)))
    assert same(run, config(init=str(first))) == []  # without a checksum: the same place
    with pytest.raises(UserError, match=r"can't resume with init = .*b\.pth'.*a\.pth'; drop --in"):
        same(run, config(init=str(other)))
    (run / INPUTS).write_text(json.dumps({"init": weights_fingerprint(str(first))}))
    moved = tmp_path / "moved.pth"
    os.rename(first, moved)
    assert same(run, config(init=str(moved))) == []
    monkeypatch.chdir(tmp_path)
    assert same(run, config(init="moved.pth")) == []
    for init in (str(other), "none", None, str(tmp_path / "absent.pth")):
        with pytest.raises(UserError, match="can't resume with init"):
            same(run, config(init=init))
    (run / INPUTS).write_text("{}")
    with pytest.raises(UserError, match="can't resume with init"):
        same(run, config(init=str(moved)))
