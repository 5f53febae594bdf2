"""The configuration of a run: a preset or a saved one, with values replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastass.config.presets import preset
from fastass.config.schema import Config
from fastass.config.text import from_yaml, neighbours, override, settable
from fastass.errors import UserError


def configure(
    base: str | Config | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    saved: Path | None = None,
) -> Config:
    """The configuration of a preset, with values replaced.

    base: a preset's name or a Config. None: the file `saved` where that is given, else the preset
    `toycity`. overrides: name → value, by the names of the flags with underscores or by dotted
    paths. UserError for an unknown name proposes similar ones.
    """
    if base is None and saved is not None:
        config = from_yaml(saved)
    else:
        config = base if isinstance(base, Config) else preset(base or "toycity")
    names = {name: leaf.path for leaf, own in settable().items() for name in own}
    paths = {name.replace(".", "_"): path for name, path in names.items()} | names
    values = {}
    for name, value in (overrides or {}).items():
        if name not in paths:
            raise UserError(f"unknown value {name!r}; {neighbours(name, list(paths))}")
        values[paths[name]] = value
    return override(config, values)
