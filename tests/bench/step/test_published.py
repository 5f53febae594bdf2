"""The README's speeds, and the line that sets a measurement beside them."""

from dataclasses import replace

import pytest
from doc_blocks import ROOT

from fastass.bench.step.compare import Row
from fastass.bench.step.published import MACHINE, STEPS, TOYCITY, beside, published_step
from fastass.config.presets import preset

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", [*STEPS.values(), TOYCITY], ids=lambda row: row.what)
def test_the_readme_has_the_row(row) -> None:
    memory = "–" if row.memory is None else f"{row.memory:.2f}×"
    assert f"| {row.what} | {row.speed} | {memory} |" in README
    assert MACHINE.partition(",")[0] in README


def test_only_the_same_step_is_set_beside_the_readme() -> None:
    config = preset("gta5_to_cityscapes_csa_500")
    small = replace(config.data, source_size=(512, 256), target_size=(512, 256))
    norm = replace(config.model, norm="frozen")
    same = replace(config, data=small, model=norm, backward="streamed").resolved()
    assert published_step(config) is None
    assert published_step(same) is STEPS["resnet101", False]
    assert published_step(same.with_runtime(amp=True)) is STEPS["resnet101", True]
    assert published_step(replace(same, batch=2)) is None


def test_the_line() -> None:
    ours = Row("fastass", 1, 1, 0, 1, 0, 100, 0, 0.1, 0.5, 1.256, 0.561, {})
    line = beside(STEPS["resnet101", False], ours)
    assert "speed 1.13 to 1.33×, memory 0.55×. Here: speed 1.26×, memory 0.56×" in line
