"""One member of an elastic run, without torchft: it trains what a single process trains."""

import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tiny_runs import SMALL, assert_same, city, weights
from torch import Tensor

import fastass
from fastass.checkpoint.async_writer import copied
from fastass.checkpoint.own_files import METRICS, SUMMARY
from fastass.checkpoint.pointers import list_checkpoints
from fastass.checkpoint.shared_run import SharedLock
from fastass.errors import TrainingFailure, UserError
from fastass.pipelines.loaders import order
from fastass.runtime.elastic import StepLost
from fastass.runtime.signals import Interrupted
from fastass.training.elastic import check, share_reader, trainer
from fastass.training.elastic import step as elastic_step

T = TypeVar("T")
VALUES = SMALL | {"start_steps": 2, "steps": 4, "batch": 1, "accumulate": 2, "log_every": 1}


class OneMember:
    """In place of `Members`: a run of one member, which loses the steps of `losing` once each."""

    losing: tuple[int, ...] = ()
    name, rank, size = "here:1", 0, 1

    def __init__(self, lighthouse: str, timeout: float, state: Any, load: Any, step: int) -> None:
        self.step, self.changed, self._lost = step, True, set[int]()

    def begin(self) -> None:
        pass

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, value: T) -> list[T]:
        return [value]

    def commit(self) -> None:
        if self.step in self.losing and self.step not in self._lost:
            self._lost.add(self.step)
            raise StepLost
        self.step += 1

    def leave(self) -> None:
        pass

    def __enter__(self) -> "OneMember":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_torchft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check_torchft", lambda: None)
    monkeypatch.setattr(check, "check_lighthouse", lambda address: None)
    monkeypatch.setattr(trainer, "Members", OneMember)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = city(tmp_path_factory.mktemp("city"))
    return {"data.source": str(root / "gta5"), "data.target": str(root / "cityscapes")}


def run(out: Path, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    options = {"out": out, "plain": True, **VALUES, **data, "save_every": 2, "eval_every": 2}
    return fastass.train("toycity", **(options | more))


def drop_members(out: Path) -> list[dict[str, Any]]:
    """Take the records of members out of metrics.jsonl → these."""
    records = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    rest = [json.dumps(record) + "\n" for record in records if "members" not in record]
    (out / METRICS).write_text("".join(rest))
    return [record for record in records if "members" in record]


def test_a_single_member_trains_as_a_process_alone(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with self-training; also if it loses steps, stops, and goes on."""
    calm, out = tmp_path / "calm", tmp_path / "run"
    run(calm, data, mix=True)
    monkeypatch.setattr(OneMember, "losing", (1, 2, 5))
    with pytest.raises(Interrupted):
        run(out, data, mix=True, elastic="http://here", stop_at=3)
    summary = run(out, data, mix=True, elastic="http://here")
    changes = drop_members(out)
    assert_same(out, calm)
    assert [(c["step"], c["position"]) for c in changes] == [(0, 0), (3, 6)]
    assert summary == json.loads((out / SUMMARY).read_text())
    assert weights(out).keys() == weights(calm).keys()
    again = run(out, data, mix=True, elastic="http://here")  # is complete
    assert again == summary


def test_a_member_that_comes_too_late_finds_the_summary(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have ended while it opened its data: it trains nothing, and writes nothing."""
    out = tmp_path / "run"
    run(out, data)
    summary = (out / SUMMARY).read_text()
    (out / SUMMARY).rename(tmp_path / "later")
    take = SharedLock.take
    calls = iter(range(100))

    def taken(lock: SharedLock, patience: float = 0.0) -> bool:
        if next(calls) == 0:
            return False  # at its start the others still train
        if not (out / SUMMARY).exists():
            (tmp_path / "later").rename(out / SUMMARY)
        return take(lock, patience)

    monkeypatch.setattr(SharedLock, "take", taken)
    before = (out / METRICS).read_text()
    assert run(out, data, elastic="http://here") == json.loads(summary)
    assert (out / METRICS).read_text() == before


def test_more_members_than_images_are_refused(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneMember, "rank", 2)
    monkeypatch.setattr(OneMember, "size", 3)
    monkeypatch.setattr(OneMember, "gather", lambda self, value: [value] * 3)
    with pytest.raises(UserError, match="the 2 images of a step are divided among 2 members"):
        run(tmp_path / "run", data, elastic="http://here")


def test_a_member_that_differs_ends(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(self: OneMember, value: Any) -> list[Any]:
        name, fingerprint, checksum = value
        other = (f"{name}0", fingerprint | {"torch": "1.0"}, checksum)
        return [value, other, other]

    monkeypatch.setattr(OneMember, "gather", gather)
    with pytest.raises(UserError, match=r"differs from the member here:10: torch is .* and 1\.0"):
        run(tmp_path / "run", data, elastic="http://here")


def test_a_run_that_nobody_restored_is_not_begun_again(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first member died after it took the lock, before it trained with the others."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(out, data, stop_at=4)
    take, calls = SharedLock.take, iter(range(100))

    def taken(lock: SharedLock, patience: float = 0.0) -> bool:
        return next(calls) > 0 and take(lock, patience)

    monkeypatch.setattr(SharedLock, "take", taken)
    before = (out / METRICS).read_text()
    with pytest.raises(TrainingFailure, match="continued the run from step-00000004 ended before"):
        run(out, data, elastic="http://here")
    assert (out / METRICS).read_text() == before


def test_the_writer_logs_and_saves_a_step_that_only_others_took(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lost step 4, another member took it, and a third one has died: its state comes back."""
    calm, out = tmp_path / "calm", tmp_path / "run"
    run(calm, data, mix=True)
    states: list[dict[str, Any]] = []

    class Peer(OneMember):
        """Does not write, as the second oldest."""

        rank = 1

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._state = arguments[2]

        def gather(self, value: T) -> list[T]:
            return [value, value]

        def begin(self) -> None:
            if self.step == 4:
                states.append(copied(self._state()))

    class Writer(OneMember):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._load = arguments[3]

        def begin(self) -> None:
            if self.step == 3:  # it has lost step 4, and gets the state after it
                self._load(states[0])
                self.step = 4

    def whole(at: int, batch: int, member: int, members: int) -> range:
        return order.share(at, batch, 0, 1)

    for module in (share_reader, elastic_step):  # each takes the whole step
        monkeypatch.setattr(module, "share", whole)
    monkeypatch.setattr(trainer, "Members", Peer)
    with pytest.raises(Interrupted):
        run(tmp_path / "peer", data, mix=True, elastic="http://here", stop_at=5)
    assert [record["step"] for record in states[0]["unwritten"]["records"]][:1] == [4]
    monkeypatch.setattr(trainer, "Members", Writer)
    run(out, data, mix=True, elastic="http://here")
    drop_members(out)
    assert_same(out, calm)


def test_weights_that_differ_are_taken_over(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the oldest member: this one asks for them before it takes a step."""
    fell: list[int] = []

    class Second(OneMember):
        rank = 1

        def gather(self, value: Any) -> Any:
            _, fingerprint, checksum = value
            return [("here:0", fingerprint, checksum + (not fell)), value]

        def fall_behind(self) -> None:
            fell.append(self.step)
            raise StepLost

    monkeypatch.setattr(trainer, "Members", Second)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", data, elastic="http://here", stop_at=1)
    assert fell == [0]


def test_who_finds_the_lock_free_for_a_moment_changes_nothing(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has died; a newcomer starts before the next one takes the lock, then gives way."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(out, data, stop_at=5)
    seen: list[str] = []

    class Second(OneMember):
        rank = 1

        def gather(self, value: T) -> list[T]:
            seen.append((out / METRICS).read_text())
            with SharedLock(out) as next_writer:
                assert next_writer.take()
            return [value, value]

    for checkpoint in list_checkpoints(out)[:1]:
        shutil.rmtree(checkpoint)  # of step 5: the run was further than its last checkpoint
    before = (out / METRICS).read_text()
    monkeypatch.setattr(trainer, "Members", Second)
    with pytest.raises(Interrupted):
        run(out, data, elastic="http://here", stop_at=5)
    assert seen == [before]
    assert (out / METRICS).read_text() == before
