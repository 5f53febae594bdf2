"""Reads small JSON files that may be damaged, or somebody else's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastass.errors import UserError

# What json raises: for a wrong text or encoding, and for 100 000 nested lists.
DAMAGE = (ValueError, RecursionError)


def read_result(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON file that must have some keys. UserError names the first that is missing."""
    content = read_json(path)
    for key in keys:
        if key not in content:
            raise UserError(f"{path}: damaged: {key} is missing")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError: one line with the file and what is wrong."""
    try:
        content = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged: expected keys and values")
    return content
