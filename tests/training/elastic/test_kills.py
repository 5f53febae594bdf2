"""Members of a real run are killed, with torchft: nobody restarts, and the result is the same."""

import json
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastass.bench.scaling.elastic_group import Group, Member, has_torchft, lighthouse
from fastass.pipelines.toycity import generate

TOTAL = 600
# A small rate and no L_mix, so that roundings stay small: at this one, batch 4 and 2 × 2 in one
# process are apart by 3e-3 after 400 steps, and the labels of L_mix jump at a threshold. What a
# newcomer gets of the teacher is compared bit for bit in test_trainer.py.
FLAGS = (
    "--method ga+csa --no-mix --ema 0.9 --labelled 3 --start-steps 10 --steps 590 --batch 2 "
    "--accumulate 2 --lr 0.001 "
    "--data-source-size 96x56 --data-target-size 96x48 --model-width 16 --model-norm frozen "
    "--discriminator-width 4 --discriminator-hidden 16 --eval-every 0 --save-every 5 "
    "--log-every 1 --workers 0 --distributed-timeout 30 --plain"
).split()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_torchft(), reason="torchft is not installed"),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("data") / "toycity"
    generate(root, source=5, target=4, val=2, workers=1)
    data = ["--data-source", str(root / "gta5"), "--data-target", str(root / "cityscapes")]
    return ["-m", "fastass", "train", "toycity", *FLAGS, *data]


def by_step(group: Group) -> dict[int, dict[str, Any]]:
    """The losses of every step, each of which was logged once."""
    steps = [record for record in group.records() if "terms" in record]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    return {record["step"]: record["terms"] for record in steps}


def train_alone(words: Sequence[str], group: Group) -> None:
    member = Member([*words, "--out", str(group.run), "--resume"], group.folder / "alone.log")
    assert member.process.wait(600) == 0, member.output


def test_killed_members_cost_a_step_each(words: list[str], tmp_path: Path) -> None:
    """Newcomers join, the writer is replaced, SIGTERM saves, and one process goes on from there."""
    calm = Group(words, tmp_path / "calm")
    calm.folder.mkdir()
    train_alone(words, calm)
    with lighthouse() as address, Group([*words, "--elastic", address], tmp_path) as group:
        for _ in range(3):
            group.start()
        group.until(lambda: len(group.joined()) == 3)
        for which in (0, 1, 0):  # the oldest one writes
            victim = group.joined()[which]
            victim.kill()
            group.start()
            group.until(lambda victim=victim: victim not in group.joined() and _all(group))  # type: ignore[misc]
        assert group.step() < TOTAL, "the newcomers came too late to learn anything"
        for member in group.living:
            member.process.send_signal(signal.SIGTERM)
        for member in group.living:
            assert member.process.wait(60) == 128 + signal.SIGTERM, member.output
        outputs = [member.output for member in group.members]
        lost = [Counter(member.lost()) for member in group.members]
        attempts = {step: max(each[step] for each in lost) for step in set().union(*lost)}
        assert sum(attempts.values()) <= 3, attempts
        assert not any("weights differ" in output or "Traceback" in output for output in outputs)
        assert any("SIGTERM: saved at step" in output for output in outputs)
        changes = [record for record in group.records() if "members" in record]
        assert [len(change["left"]) for change in changes].count(1) == 3
        assert all(change["position"] == 4 * change["step"] for change in changes)
        train_alone(words, group)  # from the last checkpoint, to the end
        found, expected = by_step(group), by_step(calm)
    assert len(found) == TOTAL
    for step, terms in expected.items():
        assert found[step] == pytest.approx(terms, rel=1e-2, abs=1e-3), step
    one, other = (json.loads((g.run / "summary.json").read_text()) for g in (group, calm))
    assert one["miou"] == pytest.approx(other["miou"], abs=0.5)


def _all(group: Group) -> bool:
    return len(group.joined()) == len(group.living) == 3


def test_errors_of_the_user_are_one_line(words: list[str], tmp_path: Path) -> None:
    with Group([*words, "--elastic", "http://localhost:9"], tmp_path) as group:
        member = group.start()
        assert member.process.wait(120) == 2
    lines = [line for line in member.output.splitlines() if line.startswith("fastass: ")]
    assert len(lines) == 1, member.output
    assert "no lighthouse answers there" in lines[0]
    assert "Traceback" not in member.output
