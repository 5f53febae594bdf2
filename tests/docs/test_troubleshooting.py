"""Every message that docs/troubleshooting.md quotes is one of fastass's."""

import ast
import re
from collections.abc import Iterator

import pytest
from doc_blocks import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
VALUE = "\0"  # stands for what a message fills in


def rows() -> list[tuple[str, str, str]]:
    """Message, cause and remedy of each row."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    return [(message.strip("`"), cause, remedy.rstrip("| ")) for message, cause, remedy in cells]


def texts() -> Iterator[str]:
    """Every text in the source, with VALUE for what is filled in."""
    for folder in ("fastass", "pipelines", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else VALUE
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


SOURCE = "\n".join(text.replace("\n", " ") for text in texts())
MESSAGES = [message for message, _, _ in rows()]


def in_source(message: str) -> bool:
    """Whether one text has the constant parts of a message, in this order."""
    parts = [re.escape(part.strip()) for part in message.split("…")]
    return re.search(".*".join(parts), SOURCE) is not None


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_source(message: str) -> None:
    assert in_source(message)


def test_every_row_names_cause_and_remedy() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) >= 50
    for message, cause, remedy in rows():
        assert cause, message
        assert remedy, message


def test_a_message_of_others_is_not_found() -> None:
    assert not in_source("no split …; splits nowhere:")
    assert not in_source("which no label id of GTA5 has")
