"""Configurations as text: flags, YAML, and errors for wrong keys and values."""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from fastass.config.schema import Config
from fastass.errors import UserError

# Keys of earlier versions, and the paths of the values today.
RENAMED = {
    name: f"runtime.{name}"
    for name in ("device", "kernels", "amp", "tf32", "compile", "compile_mode", "tune_allocator")
}

# Not for the user to set: they follow from the preset, the data and torchrun.
DERIVED = {"preset", "model.num_classes", "distributed.world"}


@dataclass(frozen=True)
class Leaf:
    """One value of the tree: its dotted path, its type and its help text."""

    path: str
    type: Any
    help: str

    @property
    def flag(self) -> str:
        return flag_of(self.path)


def flag_of(name: str) -> str:
    """`data.source_size` → `--data-source-size`."""
    return "--" + name.replace(".", "-").replace("_", "-")


def leaves(cls: type = Config, prefix: str = "") -> Iterator[Leaf]:
    """Every value of the tree, in the order of its fields."""
    hints, docs = typing.get_type_hints(cls), _field_docs(cls)
    for f in fields(cls):
        path = f"{prefix}{f.name}"
        if is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], path + ".")
        else:
            yield Leaf(path, hints[f.name], docs[f.name])


def settable() -> dict[Leaf, tuple[str, ...]]:
    """The values that a user may set, each with its names: its path, and the last word of the path
    where no other path ends in the same word."""
    settable_leaves = [leaf for leaf in leaves() if leaf.path not in DERIVED]
    last_words = [leaf.path.split(".")[-1] for leaf in settable_leaves]
    return {
        leaf: (
            (leaf.path, word) if "." in leaf.path and last_words.count(word) == 1 else (leaf.path,)
        )
        for leaf, word in zip(settable_leaves, last_words, strict=True)
    }


def value_at(config: Config, path: str) -> Any:
    """The value at a dotted path."""
    return functools.reduce(getattr, path.split("."), config)


def as_text(config: Config) -> dict[str, str]:
    """Every value as text, by its dotted path."""
    return {leaf.path: str(value_at(config, leaf.path)) for leaf in leaves()}


def _field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, after in itertools.pairwise(body.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = after.value.value if _is_text(after) else ""  # type: ignore[attr-defined]
            docs[statement.target.id] = " ".join(text.split())
    return {f.name: docs.get(f.name, "") for f in fields(cls)}


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def neighbours(word: str, known: list[str]) -> str:
    """ "did you mean …?" for an unknown word, or the whole list if no known word is similar."""
    similar = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(similar)}?" if similar else f"known: {', '.join(known)}"


def parse(text: Any, hint: Any, where: str) -> Any:
    """A flag's text or a YAML value as a value of type `hint`.

    UserError for a value that does not fit; `where` names the flag or the key in it.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text is None or text in ("", "none", "None"):
            return None
        return parse(text, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        choices = {str(a): a for a in args}
        if str(text) not in choices:
            raise UserError(f"{where}: unknown value {text!r}; {neighbours(str(text), [*choices])}")
        return choices[str(text)]
    if origin is tuple:
        return _parse_tuple(text, args, where)
    return _parse_scalar(text, hint, where)


def _parse_tuple(text: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(text, str):
        separator = "x" if args == (int, int) and "x" in text else ","
        text = [part.strip() for part in text.split(separator) if part.strip()]
    if not isinstance(text, (list, tuple)):
        raise UserError(f"{where}: expected a list, got {text!r}")
    if args[-1] is Ellipsis:
        return tuple(parse(part, args[0], where) for part in text)
    if len(text) != len(args):
        form = "WxH" if args == (int, int) else ",".join(a.__name__ for a in args)
        raise UserError(f"{where}: expected {len(args)} values ({form}), got {text!r}")
    return tuple(parse(part, arg, where) for part, arg in zip(text, args, strict=True))


def _parse_scalar(text: Any, hint: Any, where: str) -> Any:
    words = {"true": True, "yes": True, "false": False, "no": False}
    if hint is bool:
        value = words.get(text.lower()) if isinstance(text, str) else text
        if not isinstance(value, bool):
            raise UserError(f"{where}: expected true or false, got {text!r}")
        return value
    if hint is str:
        if not isinstance(text, str):
            raise UserError(f"{where}: expected text, got {text!r}")
        return text
    if isinstance(text, bool):
        raise UserError(f"{where}: expected {hint.__name__}, got {text!r}")
    try:
        if hint is int and isinstance(text, float) and text != int(text):
            raise ValueError
        return hint(text)
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if hint is int else "a number"
        raise UserError(f"{where}: expected {kind}, got {text!r}") from None


def override(config: Config, values: Mapping[str, Any], where: str = "") -> Config:
    """`config` with the values at dotted paths replaced; texts are parsed to the field's type.

    UserError for an unknown path or a value that does not fit; it begins with `where`.
    """
    known = {leaf.path: leaf for leaf in leaves()}
    for path, value in values.items():
        if path not in known:
            raise UserError(f"{where}unknown key {path!r}; {neighbours(path, list(known))}")
        config = _set(config, path.split("."), parse(value, known[path].type, f"{where}{path}"))
    return config


def _set(node: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _set(getattr(node, path[0]), path[1:], value)
    return replace(node, **{path[0]: value})


def to_yaml(config: Config) -> str:
    """The whole tree as YAML; `from_yaml` reads the same configuration back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return yaml.safe_dump(
        plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True, width=100
    )


def from_yaml(path: Path | str, note: Callable[[str], None] = lambda line: None) -> Config:
    """Read a saved configuration. Unknown keys and wrong types raise UserError.

    note: called with one line if the file has keys of an earlier version; it names their
    replacements.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys and values, got {type(tree).__name__}")

    def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    values = dict(flat(tree))
    renamed = [name for name in values if name in RENAMED]
    if renamed:
        pairs = ", ".join(f"{name} is now {RENAMED[name]}" for name in renamed)
        note(f"{path}: written by an earlier version: {pairs}")
    return override(Config(), {RENAMED.get(n, n): v for n, v in values.items()}, f"{path}: ")
