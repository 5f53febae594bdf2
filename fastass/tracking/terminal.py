"""How progress is shown: a live view in a terminal, plain lines elsewhere."""

import io
import os
import sys

from fastass.runtime.signals import raise_lost
from fastass.tracking.progress import Plain, Reporter


def reporter(plain: bool = False) -> Reporter:
    """The live view if standard output is a terminal and `plain` is not set, else plain lines."""
    raise_lost()  # the modules are loaded, and long work begins
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of few characters gets a ?
        sys.stdout.reconfigure(errors="replace")
    closed = sys.stdout is None  # as by `>&-`; print then writes nothing
    if plain or closed or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return Plain()
    from fastass.tracking.live_view import LiveView  # here, so that plain output needs no rich

    return LiveView()
