"""Reads a configuration file: small YAML, without aliases, no key twice."""

from pathlib import Path
from typing import Any

from fastass.errors import DataError, UserError
from fastass.pipelines.datasets import yaml_file


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises UserError: not there, too large, not valid YAML."""
    if not path.exists():
        raise UserError(f"{path}: no such configuration file")
    try:
        return yaml_file.read_yaml(path)
    except DataError as error:
        raise UserError(str(error)[:400]) from None
