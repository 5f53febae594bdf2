"""The tutorial as a page and as a notebook, from docs/tutorial.py."""

from typing import Any

import jupytext

DOWNLOAD = (
    "Download this page as a [notebook](tutorial.ipynb), or run it as a script: "
    "`python docs/tutorial.py`."
)


def page(source: str) -> str:
    """Markdown: text cells as they are, code cells as blocks."""
    first, *cells = _cells(source)
    parts = [first["source"], DOWNLOAD]
    for cell in cells:
        code = cell["cell_type"] == "code"
        parts.append(f"```python\n{cell['source']}\n```" if code else cell["source"])
    return "\n\n".join(parts) + "\n"


def notebook(source: str) -> str:
    """The notebook as JSON, without outputs."""
    return str(jupytext.writes(jupytext.reads(source, fmt="py:percent"), fmt="ipynb"))


def _cells(source: str) -> list[Any]:
    return list(jupytext.reads(source, fmt="py:percent")["cells"])
