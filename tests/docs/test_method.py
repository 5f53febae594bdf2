"""docs/method.md names functions and quotes lines of code: both are there."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
ROWS = re.findall(r"\| `(fastass\.[\w.]+)` \| `(.+?)` \|", PAGE)


def find(name: str) -> Any:
    """The object of a dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(fastass\.[\w.]+)`", PAGE))))
def test_every_name_is_there(name: str) -> None:
    assert find(name) is not None


@pytest.mark.parametrize(("name", "line"), ROWS)
def test_every_quoted_line_stands_where_it_is_said(name: str, line: str) -> None:
    assert line in inspect.getsource(find(name))


def test_all_equations_are_covered() -> None:
    numbers = re.findall(r"^\| ([\d, ]+) \|", PAGE, flags=re.MULTILINE)
    assert {int(n) for cell in numbers for n in cell.split(",")} == set(range(1, 12))
    assert len(ROWS) == 17
