"""The shell blocks of README.md, CONTRIBUTING.md and docs/.

A block that starts with ```sh is run by `tests/docs/test_docs.py`, unless its first line says what
it needs that a test has not got: `# needs: GTA5, Cityscapes`. Output and files are ```text.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
DOCS = ROOT / "docs"
GENERATED = {  # by docs/generate/hook.py; they are not in the repository
    DOCS / "reference" / "configuration.md",
    DOCS / "reference" / "commands.md",
    DOCS / "tutorial.md",
    DOCS / "tutorial.ipynb",
}
_BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"^\s*\$? *(?:\w+=\S* +)*(?:\S*/)?(fastass|make|pip|python3?|pytest|torchrun|git) ", re.M
)


class Block(NamedTuple):
    """language: the word after the fence. lines: continued ones joined, without comments."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        joined = re.sub(r"\\\n\s*", " ", self.text)
        stripped = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in joined.splitlines())
        return [line for line in stripped if line]

    @property
    def shell(self) -> bool:
        return self.language == "sh"

    @property
    def needs(self) -> str:
        """What a block needs that a test has not got; empty for one that runs."""
        first = self.text.lstrip().splitlines()[0] if self.text.strip() else ""
        return first.partition("# needs:")[2].strip()

    @property
    def looks_like_commands(self) -> bool:
        return bool(_COMMAND.search(self.text))


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(m[2].strip(), re.sub(f"^{m[1]}", "", m[3], flags=re.M)) for m in _BLOCK.finditer(text)
    ]
