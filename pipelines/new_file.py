"""Creates temporary files whose names others can predict."""

import os
from pathlib import Path
from typing import IO


def open_new(path: Path | str) -> IO[bytes]:
    """Create a file for writing, in place of one that a killed process may have left.

    What lies under the name is removed, never opened: a symbolic link planted there would
    otherwise lead the writer to another file. Raises OSError, FileExistsError if another process
    creates the file at the same time.
    """
    if os.path.lexists(path):
        os.unlink(path)
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
