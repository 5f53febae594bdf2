"""One way of training that a benchmark times: fastass under a configuration, or the baseline.

Each candidate runs in its own process, with its own allocator settings and its own peak memory.
`Candidate` is the parent's handle on that process; the parent lets the candidates step in turns.
"""

import multiprocessing
from dataclasses import astuple, dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Literal

from fastass.bench.step.worker import CandidateConfig, serve
from fastass.config.schema import Config
from fastass.errors import UserError

Kind = Literal["engine", "reference"]


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step and of its parts."""

    wait: float
    forward_backward: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.wait + self.forward_backward + self.optimizer


class Candidate:
    """A started candidate. Use it as a context manager: its process ends with it."""

    def __init__(self, config: CandidateConfig) -> None:
        """Starts the process; UserError if it can't be built on this machine."""
        self.config, self.name = config, config.name
        self.times: list[StepTime] = []
        context = multiprocessing.get_context("spawn")
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, config))
        self._process.start()
        theirs.close()
        self.facts: dict[str, Any] = self._receive()

    def __enter__(self) -> "Candidate":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def ask(self, what: str) -> Any:
        """Call one of `Worker`'s public methods in the process, and return its answer."""
        self._pipe.send(what)
        return self._receive()

    def turn(self, steps: int, unmeasured: int) -> None:
        """Run `unmeasured` steps, then `steps` steps whose mean is kept in `times`."""
        for _ in range(unmeasured):
            self.ask("step")
        times = [StepTime(**self.ask("step")) for _ in range(steps)]
        means = [sum(parts) / steps for parts in zip(*map(astuple, times), strict=True)]
        self.times.append(StepTime(*means))

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise UserError(
                f"bench: the process of {self.name!r} died; does it have enough memory?"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def engine(name: str, config: Config, **options: Any) -> CandidateConfig:
    """fastass under `config`."""
    return CandidateConfig(name=name, kind="engine", config=config, **options)


def reference(name: str, config: Config, norm: str, **options: Any) -> CandidateConfig:
    """The AdaptSegNet baseline with `norm`: eager, fp32, NCHW, unfused."""
    model = replace(config.model, norm=norm, recompute_sums=False)  # type: ignore[arg-type]
    config = replace(config, model=model)
    config = config.with_runtime(amp=False, compile=False, kernels="reference")
    return CandidateConfig(name=name, kind="reference", config=config, **options)
