"""The configuration of a run: a preset or a saved one, with values replaced."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastass.config.presets import preset
from fastass.config.schema import Config
from fastass.config.text import DERIVED, from_yaml, neighbours, override, read_keys, settable
from fastass.errors import UserError

DEFAULT_PRESET = "toycity"
SAVED = DERIVED - {"model.backbone_config"}  # which files of earlier versions lack


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
        config = base if isinstance(base, Config) else preset(base or DEFAULT_PRESET)
    names = {name: leaf.path for leaf, own in settable().items() for name in own}
    paths = {name.replace(".", "_"): path for name, path in names.items()} | names
    values = {}
    for name, value in (overrides or {}).items():
        if name not in paths:
            raise UserError(f"unknown value {name!r}; {neighbours(name, list(paths))}")
        values[paths[name]] = value
    return override(config, values)


def from_file(path: Path, note: Callable[[str], None] = lambda line: None) -> Config:
    """The configuration of a file that a user gives: its preset, with the file's keys replaced.

    A file that fastass has saved holds every value, and those that follow from the data anew are
    replaced later. In any other file such a key would have no effect: UserError. note: as of
    `from_yaml`.
    """
    keys = read_keys(path, note)
    base = Config()
    if not keys.keys() >= SAVED:
        for key in sorted(DERIVED - {"preset"}):
            if key in keys:
                raise UserError(
                    f"{path}: {key} follows from the data, the backbone or torchrun; remove the key"
                )
        if keys.get("preset"):
            try:
                base = preset(str(keys["preset"]))
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
    return override(base, keys, f"{path}: ")
