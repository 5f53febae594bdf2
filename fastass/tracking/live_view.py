"""The live view in a terminal: progress bar, throughput, losses, the curve of mIoU.

It redraws a few lines in place. Other lines scroll up above it, and at the end it disappears.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fastass.pipelines.errors import printable_lines
from fastass.tracking.progress import TrainStats, score_line

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"  # of a terminal that has no others
SHOWN = 30  # evaluations in the curve


class _Elapsed(TimeElapsedColumn):
    """The time of a phase, together with that before the run was resumed."""

    def render(self, task: Task) -> Text:
        seconds = int((task.elapsed or 0) + task.fields.get("before", 0))
        return Text(str(timedelta(seconds=seconds)), style="progress.elapsed")


class LiveView:
    """A `fastass.tracking.progress.Reporter` for terminals."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            _Elapsed(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=console or Console(highlight=False),
            expand=True,
            speed_estimate_period=300,  # training reports every few seconds or minutes
        )
        self._tasks: dict[str, TaskID] = {}
        self._task: TaskID | None = None
        self._stats: TrainStats | None = None
        self._scores: list[float] = []
        self._before = 0.0  # seconds of training before the run was resumed
        self._live = Live(
            console=self._progress.console,
            get_renderable=self.picture,
            refresh_per_second=4,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """Show a phase; one that another phase interrupted continues with its clock and rate."""
        if self._task is not None:
            self._progress.update(self._task, visible=False)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(
                name, total=total or None, completed=done, before=self._before if done else 0.0
            )
        self._task = self._tasks[name]
        self._progress.update(self._task, total=total or None, completed=done, visible=True)

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def trained(self, step: int, stats: TrainStats) -> None:
        self._stats = stats
        self.advance(step)

    def scored(self, step: int, miou: float, note: str = "") -> None:
        self._scores.append(miou)
        self.line(score_line(step, miou, note))

    def resumed(self, seconds: float, scores: Sequence[float]) -> None:
        """Continue the clock and the curve of a resumed run.

        seconds: of training so far. scores: mIoU of its evaluations, percent.
        """
        self._before, self._scores = seconds, [*scores]

    def line(self, text: str) -> None:
        self._progress.console.print(printable_lines(text), markup=False)

    def picture(self) -> RenderableType:
        """The current contents of the view."""
        parts: list[RenderableType] = [self._progress.get_renderable()]
        if self._stats is not None:
            parts.append(Text(self._stats.rates(), style="cyan"))
            losses = [Text(loss) for loss in self._stats.losses()]
            parts.append(Columns(losses, equal=True, padding=(0, 2)))
        if self._scores:
            ascii_only = self._progress.console.options.ascii_only
            bars = ASCII_BARS if ascii_only else BARS
            parts.append(Text(curve(self._scores, bars), style="green"))
        return Group(*parts)


def curve(scores: list[float], bars: str = BARS) -> str:
    """The last percentages as a line of bars, with the first and the last of them as numbers."""
    shown = scores[-SHOWN:]
    low, high = min(shown), max(shown)
    steps = [round((v - low) / (high - low) * (len(bars) - 1)) if high > low else 0 for v in shown]
    line = "".join(bars[step] for step in steps)
    return f"mIoU {shown[0]:.1f} {line} {shown[-1]:.1f} (best {max(scores):.1f})"
