"""Which form of a convolution with its epilogue runs on a GPU: a process-wide choice.

``off``: the first form, cuDNN's convolution and one kernel behind it. ``on``: the last, the most
fused one. ``timed``: for each operation and sizes the fastest, timed once on the device when they
first come up; `describe_fused` says what was chosen.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar

import torch

Result = TypeVar("Result")
Choice = Literal["off", "timed", "on"]
CHOICES: tuple[Choice, ...] = ("off", "timed", "on")
_CALLS = 10  # timed together

_choice: Choice = "off"
_chosen: dict[Hashable, tuple[str, dict[str, float | None]]] = {}


def use_fused(choice: Choice) -> None:
    """Choose for every later operation, and forget what was timed."""
    global _choice
    if choice not in CHOICES:
        raise ValueError(f"got {choice!r}, expected one of {', '.join(CHOICES)}")
    _choice = choice
    _chosen.clear()


def is_fused() -> bool:
    """Whether fused forms may run at all."""
    return _choice != "off"


def run(key: Hashable, forms: dict[str, Callable[[], Result]]) -> Result:
    """The result of the form that is chosen. Every form must return new tensors and change none.

    key: the operation and its sizes.
    """
    first, last = next(iter(forms)), next(reversed(forms))
    if _choice != "timed" or first == last:
        return forms[last if _choice == "on" else first]()
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():  # nothing can be timed there
            return forms[first]()
        ms = {name: milliseconds(form) for name, form in forms.items()}
        _chosen[key] = min(ms, key=lambda name: ms[name] or float("inf")), ms
    return forms[_chosen[key][0]]()


def milliseconds(form: Callable[[], Any]) -> float | None:
    """Of one call, which waits for the GPU; None for a form that does not run here."""
    try:
        form()  # compiles it, and lets cuDNN look for an algorithm
    except RuntimeError:
        return None
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()  # type: ignore[no-untyped-call, unused-ignore]
    for _ in range(_CALLS):
        form()
    end.record()  # type: ignore[no-untyped-call, unused-ignore]
    end.synchronize()  # type: ignore[no-untyped-call, unused-ignore]
    return float(begin.elapsed_time(end)) / _CALLS


def describe_fused() -> str:
    """What was timed and chosen, in a line; empty if nothing was timed."""
    if not _chosen:
        return ""
    counts = Counter(name for name, _ in _chosen.values())
    words = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    failed = Counter(name for _, ms in _chosen.values() for name in ms if ms[name] is None)
    cannot = "".join(f"; {name} does not run for {count}" for name, count in failed.items())
    return f"fused convolutions: {len(_chosen)} timed, {words} chosen{cannot}"
