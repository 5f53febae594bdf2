"""The list of explained mutants speaks of lines that are there."""

from pathlib import Path

import pytest
from explained_mutants import Mutant, explained, from_diff

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("mutant", explained(), ids=lambda mutant: mutant.path)
def test_every_explained_line_is_still_there(mutant: Mutant) -> None:
    text = "".join((ROOT / mutant.path).read_text(encoding="utf-8").split())
    assert mutant.was in text
    assert mutant.was != mutant.becomes
    assert len(explained()[mutant]) > 20


def test_a_diff_is_known_whatever_its_margins() -> None:
    diff = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n def f():\n-    return 1\n+    return  2"
    assert from_diff("x.py", diff) == Mutant("x.py", "return1", "return2")
