"""Who tells the progress of long work: a live view on a terminal, plain lines elsewhere."""

import os
import sys

from fastass.tracking.progress import Plain, Reporter


def reporter(plain: bool = False) -> Reporter:
    """The live view where standard output is a terminal, unless `plain` is asked for; or lines."""
    if plain or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return Plain()
    from fastass.tracking.live_view import LiveView  # here, so that plain output needs no rich

    return LiveView()
