"""The mutants that no test needs to notice, with reasons: `tests/mutation/explained.txt`."""

from pathlib import Path
from typing import NamedTuple

EXPLAINED = Path(__file__).parent.parent / "mutation" / "explained.txt"


class Mutant(NamedTuple):
    """A change of one place: the lines that it removes and those that it adds, without spaces."""

    path: str
    was: str
    becomes: str


def from_diff(path: str, diff: str) -> Mutant:
    """The mutant that a unified diff describes."""
    lines = [line for line in diff.splitlines() if line[:3] not in ("---", "+++")]
    sides = ["".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+"]
    was, becomes = ("".join(side.split()) for side in sides)
    return Mutant(path, was, becomes)


def explained() -> dict[Mutant, str]:
    """Mutant → reason. A paragraph of the file: path, `-` lines, `+` lines, reason."""
    reasons = {}
    for paragraph in EXPLAINED.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        if lines:
            reason = [line.strip() for line in lines[1:] if line[:1] not in "-+"]
            reasons[from_diff(lines[0].strip(), "\n".join(lines[1:]))] = " ".join(reason)
    return reasons
