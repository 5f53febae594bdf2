"""The pages of the site that `docs/generate/hook.py` adds; they are not in the repository."""

from doc_blocks import ROOT

DOCS = ROOT / "docs"
GENERATED = {
    DOCS / "reference" / "configuration.md",
    DOCS / "reference" / "commands.md",
    DOCS / "tutorial.md",
    DOCS / "tutorial.ipynb",
}
