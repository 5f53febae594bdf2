"""Out of memory on a GPU: one line names the batch that the model expects to fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastass.bench.model import roofline, trace
from fastass.bench.model.fits import expected_to_fit
from fastass.cli.main import LESS_MEMORY, main
from fastass.config.presets import preset
from fastass.training import run

PRESET = "gta5_to_cityscapes_csa_500"
PAPER = preset(PRESET)


def test_the_batch_is_the_model_s() -> None:
    kept = trace.read(PAPER.method, PAPER.model.norm, "eager")
    batch = roofline.largest_batch(kept, 80e9)
    assert batch > 1
    said = expected_to_fit(PAPER.with_runtime(amp=True), 80e9)
    assert said == f"the largest --batch expected to fit is {batch} (modelled, for 80 GB)"
    assert trace.at(kept.peak, batch) < 80e9 < trace.at(kept.peak, 2 * batch)


def test_precision_and_a_gpu_that_is_too_small() -> None:
    assert expected_to_fit(PAPER, 80e9).startswith("with --amp the largest")
    assert expected_to_fit(PAPER, 1e9) == "with --amp not even --batch 1 fits (modelled, for 1 GB)"


@pytest.mark.parametrize(
    "config",
    [
        replace(PAPER, mix=True),
        replace(PAPER, ema=0.9),
        replace(PAPER, backward="streamed"),
        replace(PAPER, backward="fused"),
        PAPER.with_runtime(compile=True),
        replace(PAPER, model=replace(PAPER.model, backbone="resnet50")),
        preset("toycity"),
    ],
)
def test_nothing_is_said_about_a_step_without_a_trace(config) -> None:
    assert expected_to_fit(config, 80e9) == ""


def test_a_run_that_does_not_fit_names_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*given: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 …")

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 80 * 10**9))
    words = ["train", PRESET, "--batch", "64", "--amp", "--out", str(tmp_path / "run")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert expected_to_fit(PAPER.with_runtime(amp=True), 80e9) in said
    assert said.startswith("fastass: out of memory (CUDA out of memory.")
    assert said.endswith(f"; {LESS_MEMORY}\n")
    assert said.count("\n") == 1
