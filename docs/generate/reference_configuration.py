"""The page Reference/Configuration, from the schema's types, defaults and docstrings."""

import inspect
import re
import typing

from fastass.config.configure import DEFAULT_PRESET
from fastass.config.presets import preset
from fastass.config.schema import Config
from fastass.config.text import DERIVED, Leaf, flag_of, leaves, settable, value_at
from fastass.config.values import kind, written

INTRODUCTION = """\
# Configuration

Every value of a run has a place in one tree. You can set it in three ways:

- on the command line, by its flag: `fastass train toycity --optim-lr 0.01`;
- in Python, by its path, or by the flag's name with underscores:
  `fastass.train("toycity", **{"optim.lr": 0.01})`;
- in a YAML file, for `fastass train --config FILE`. Each run saves such a file, `RUN/config.yaml`.

Where two flags are listed, they mean the same. The default applies to a plain `fastass.Config()`;
a preset replaces some values, and `toycity`'s are listed here too.
"""


def page() -> str:
    """Markdown: a section for each part of the tree, a heading for each value."""
    parts = [INTRODUCTION]
    section = ""
    for leaf in leaves():
        if leaf.section != section:
            section = leaf.section
            parts.append(f"## {section}\n\n{_about(section)}")
        parts.append(_entry(leaf))
    return "\n\n".join(parts) + "\n"


def _about(section: str) -> str:
    """The docstring of a section's dataclass."""
    cls = Config if section == "run" else typing.get_type_hints(Config)[section]
    return _linked(" ".join((inspect.getdoc(cls) or "").split()))


def _entry(leaf: Leaf) -> str:
    heading = f"### `{leaf.path}` {{: #{leaf.path.replace('_', '-')} }}"
    return f"{heading}\n\n{_linked(leaf.help)}\n\n{facts(leaf)}"


def _linked(text: str) -> str:
    """With a link for each page of docs/ that it names."""
    return re.sub(r"docs/([\w-]+)\.md", r"[docs/\1.md](../\1.md)", text)


def facts(leaf: Leaf) -> str:
    """Flags, type with range, and default of a value, as a list."""
    default = written(leaf.default)
    lines = [
        f"- Allowed: {kind(leaf.type)}",
        f"- Default: {f'`{default}`' if default else 'empty'}",
    ]
    if leaf.path in DERIVED:
        lines.insert(0, "- No flag: it follows from the preset, the data, the backbone or torchrun")
        return "\n".join(lines)
    flags = [flag_of(name) for name in settable()[leaf]]
    if leaf.type is bool:
        flags += [flag.replace("--", "--no-", 1) for flag in flags]
    names = ", ".join(f"`{flag}`" for flag in flags)
    usual = value_at(preset(DEFAULT_PRESET), leaf.path)
    if usual != leaf.default:
        lines[-1] += f", {DEFAULT_PRESET} `{written(usual)}`"
    return "\n".join([f"- Flag: {names}", *lines])
