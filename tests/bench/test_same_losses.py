"""Two installations' losses, compared bit for bit."""

import sys

import pytest

from bench import same_losses


def test_a_difference_is_named() -> None:
    ours = [{"seg_source": 1.5, "gadv": 0.5}, {"seg_source": 0.1, "gadv": 0.5}]
    theirs = [ours[0], {"seg_source": 0.1 + 2**-55, "gadv": 0.5}]
    assert same_losses.difference(ours, ours) == "equal"
    assert same_losses.difference(ours, theirs) == (
        "step 2: seg_source 0.1 and 0.10000000000000003"
    )
    assert "terms seg_source, gadv and gadv" in same_losses.difference(ours, [{"gadv": 0.5}] * 2)
    with pytest.raises(ValueError, match="shorter"):
        same_losses.difference(ours, ours[:1])


def test_an_installation_equals_itself(capsys: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "--steps", "2", "--method", "ga+csa"]
    assert same_losses.main(words) == 0
    assert capsys.readouterr().out.startswith("ga+csa: 2 steps, equal; last step")
