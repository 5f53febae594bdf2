"""The permitted range of a number, written beside its field: `Annotated[int, Range(1)]`."""

import math
from dataclasses import dataclass
from typing import Any

AUTO = -1  # the value of the word `auto`


@dataclass(frozen=True)
class Range:
    """low to high, both permitted unless `open_low` or `open_high`; high None: no upper limit.

    multiple: only multiples of it. auto: the word `auto` is permitted too, and read as AUTO.
    NaN and infinity are never permitted. `str()` is what the help and the messages say.
    """

    low: float
    high: float | None = None
    multiple: int = 1
    open_low: bool = False
    open_high: bool = False
    auto: bool = False

    def __str__(self) -> str:
        words = [f"{'above' if self.open_low else 'at least'} {self.low}"]
        if self.high is not None and not (self.open_low or self.open_high):
            words = [f"{self.low} to {self.high}"]
        elif self.high is not None:
            words.append(f"{'below' if self.open_high else 'at most'} {self.high}")
        if self.multiple != 1:
            words.append(f"a multiple of {self.multiple}")
        return ", ".join(words) + (" or auto" if self.auto else "")

    def holds(self, value: Any) -> bool:
        """Whether a number is permitted."""
        if self.auto and value == AUTO:
            return True
        if not math.isfinite(value) or value < self.low or (self.open_low and value == self.low):
            return False
        if self.high is not None and (value > self.high or (self.open_high and value == self.high)):
            return False
        return self.multiple == 1 or value % self.multiple == 0
