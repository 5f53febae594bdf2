"""What a terminal and what a file sees of long work."""

import io
import re

import pytest
from rich.console import Console

from fastass.errors import UserError
from fastass.method.terms import LossTerms
from fastass.tracking.live_view import LiveView, curve
from fastass.tracking.progress import Plain, Silent, TrainStats
from fastass.tracking.terminal import reporter

TERMS = dict.fromkeys(LossTerms._fields, 0.25)
STATS = TrainStats(TERMS, 86.24, 0.031, (10.31, 79.2))


def test_a_closed_output_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `fastass predict … >&-`."""
    monkeypatch.setattr("sys.stdout", None)
    with reporter() as show:
        show.phase("predict", 2)
        show.line("a line")
        show.advance(2)


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(reporter(), Plain)
    with Plain(interval=0.0) as show:
        show.phase("train", 800, 10)
        show.trained(20, STATS)
        show.scored(20, 18.234)
        show.line("a [b] line")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"train 20/800 · \d+:\d\d left · 86.2 images/s · data wait 3% · "
        r"GPU 10.3 of 79 GiB · L_seg\(I_s\) 0.250 .*",
        lines[0],
    )
    assert lines[1:] == ["step 20: mIoU 18.23 on target val", "a [b] line"]


def test_plain_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    with Plain(interval=1000.0) as show:
        show.phase("train", 800)
        for step in range(100):
            show.trained(step, STATS)
    assert capsys.readouterr().out == ""


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent() as show:
        show.phase("train", 800)
        show.trained(1, STATS)
        show.scored(1, 2.0)
        show.advance(3)
        show.line("x")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_view_fits_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=True)
    with LiveView(console) as show:
        show.phase("train", 150_000, 1000)
        show.trained(123_456, STATS)
        for step in range(60):
            show.scored(step, float(step))
        with console.capture() as capture:
            console.print(show.picture())
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capture.get()).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in (
        "train",
        "123456/150000",
        "ETA",
        "86.2 images/s",
        "data wait 3%",
        "GPU 10.3 of 79",
        "L_seg(I_tl) 0.250",
        "L_sd(F_tl) 0.250",
        "mIoU 30.0 ▁",
        "█ 59.0 (best 59.0)",
    ):
        assert part in text
    assert len(set(lines)) <= 8  # the view is drawn twice here: printed, and live


def test_lines_wrap_at_words() -> None:
    console = Console(file=io.StringIO(), width=20, force_terminal=True, highlight=False)
    with LiveView(console) as show, console.capture() as capture:
        show.line("a line that is [longer] than twenty")
    assert "a line that is \n[longer] than twenty\n" in capture.get()


def test_a_phase_comes_back_after_another() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with LiveView(console) as show:
        show.phase("train", 100)
        show.advance(10)
        show.phase("evaluate at 10", 5)
        show.advance(5)
        show.phase("train", 100, 10)
        with console.capture() as capture:
            console.print(show.picture())
    assert "10/100" in capture.get()
    assert "evaluate" not in capture.get()


def test_a_resumed_run_continues_its_clock_and_its_curve() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with LiveView(console) as show:
        show.resumed(3600.0, [10.0, 20.0])
        show.phase("train", 100, 50)
        with console.capture() as capture:
            console.print(show.picture())
    assert "1:00:0" in capture.get()
    assert "mIoU 10.0 ▁█ 20.0 (best 20.0)" in capture.get()


def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Plain().line("a\x1b]0;b\x07\nnext line")
    assert capsys.readouterr().out == "a\\x1b]0;b\\x07\nnext line\n"
    assert str(UserError("a\x1b[2Jb")) == "a\\x1b[2Jb"


def test_curve() -> None:
    assert curve([10.0, 20.0, 15.0]) == "mIoU 10.0 ▁█▅ 15.0 (best 20.0)"
    assert curve([10.0]) == "mIoU 10.0 ▁ 10.0 (best 10.0)"


def test_a_terminal_of_ascii_has_a_curve_too() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii", errors="replace")
    console = Console(file=file, width=80, force_terminal=True)
    view = LiveView(console)
    view.resumed(0.0, [10.0, 20.0, 15.0])
    with console.capture() as shown:
        console.print(view.picture())
    assert "mIoU 10.0 _#= 15.0 (best 20.0)" in shown.get()
