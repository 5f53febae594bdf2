"""The comparison of training runs; the runs themselves are slow."""

from pathlib import Path

import pytest

from fastass.bench import kernel_parity


def test_differences_are_relative_and_by_step() -> None:
    truth = [{"a": 1.0, "b": 2.0}, {"a": 4.0, "b": 0.5}]
    ours = [{"a": 1.0, "b": 2.0}, {"a": 4.0, "b": 0.75}]
    assert kernel_parity.differences(ours, truth) == [0.0, 0.5]
    with pytest.raises(ValueError, match="terms"):
        kernel_parity.differences([{"a": 1.0}], [{"b": 1.0}])


def test_reference_comes_first() -> None:
    assert kernel_parity.choices()[0] == "reference"
    assert len(kernel_parity.choices()) == 2


@pytest.mark.slow
def test_toycity_gives_the_same_losses_with_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the data set is made there
    rows = [
        row
        for method in kernel_parity.METHODS
        for row in kernel_parity.compare(method, 4, tmp_path)
    ]
    assert [row["kernels"] for row in rows] == kernel_parity.choices() * 2
    assert all(row["agree"] for row in rows), kernel_parity.table(rows)
