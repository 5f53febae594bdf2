"""Configurations as text: flags, YAML, and errors for wrong keys and values."""

import ast
import dataclasses
import functools
import inspect
import itertools
import shlex
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fastass.config.schema import Config
from fastass.config.values import neighbours as neighbours
from fastass.config.values import parse as parse
from fastass.config.values import shown, written
from fastass.config.yaml_file import read_yaml
from fastass.errors import UserError
from fastass.pipelines.datasets.yaml_file import Dumper

# Keys of earlier versions, and the paths of the values today.
RENAMED = {
    name: f"runtime.{name}"
    for name in ("device", "kernels", "amp", "tf32", "compile", "compile_mode", "tune_allocator")
}

# Not for the user to set: they follow from the preset, the data, the backbone and torchrun.
DERIVED = {"preset", "model.num_classes", "model.backbone_config", "distributed.world"}


@dataclass(frozen=True)
class Leaf:
    """One value of the tree: its dotted path, its type and its help text."""

    path: str
    type: Any
    help: str
    default: Any

    @property
    def section(self) -> str:
        """The group that the help shows it in."""
        return self.path.partition(".")[0] if "." in self.path else "run"

    @property
    def flag(self) -> str:
        return flag_of(self.path)


def flag_of(name: str) -> str:
    """`data.source_size` → `--data-source-size`."""
    return "--" + name.replace(".", "-").replace("_", "-")


def as_typed(name: str, value: Any) -> str:
    """The flag that gives a value, as it is typed: `--labelled 0`, `--no-mix`."""
    flag = flag_of(name)
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return f"{flag} {shlex.quote('none' if value is None else written(value))}"


def as_flags(values: Mapping[str, object]) -> list[str]:
    """Values at dotted paths as words for `fastass train`."""
    return [word for path, value in values.items() for word in (flag_of(path), str(value))]


@cache
def leaves(cls: type = Config, prefix: str = "") -> tuple[Leaf, ...]:
    """Every value of the tree, in the order of its fields."""
    hints, docs = typing.get_type_hints(cls, include_extras=True), _field_docs(cls)
    found: list[Leaf] = []
    for f in fields(cls):
        path = f"{prefix}{f.name}"
        if is_dataclass(hints[f.name]):
            found += leaves(hints[f.name], path + ".")
        else:
            found.append(Leaf(path, hints[f.name], docs.get(f.name, ""), f.default))
    return tuple(found)


@cache
def sections() -> frozenset[str]:
    """The dotted paths of the parts of the tree that have parts."""
    return frozenset(leaf.path.rpartition(".")[0] for leaf in leaves()) - {""}


@cache
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
    for pair in itertools.pairwise(body.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(str(text))):
                docs[name] = " ".join(text.split())
    return docs


def override(config: Config, values: Mapping[str, Any], where: str = "") -> Config:
    """`config` with the values at dotted paths replaced, all at once; texts are parsed.

    UserError for an unknown path, for a value that does not fit or is out of range (it begins with
    `where`), and for values that exclude each other.
    """
    known = {leaf.path: leaf for leaf in leaves()}
    tree: dict[str, Any] = {}
    for path, value in values.items():
        if path not in known:
            raise UserError(f"{where}unknown key {shown(path)}; {neighbours(path, known)}")
        *above, name = path.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[name] = parse(value, known[path].type, f"{where}{path}")
    replaced: Config = _replaced(config, tree)
    return replaced


def _replaced(node: Any, tree: Mapping[str, Any]) -> Any:
    new = {k: _replaced(getattr(node, k), v) if isinstance(v, dict) else v for k, v in tree.items()}
    return replace(node, **new)


def check(config: Config) -> None:
    """UserError for a value of another type than its field's, or out of its range.

    `override` checks what it sets; this is for configurations that were built in Python.
    """
    for leaf in leaves():
        parse(value_at(config, leaf.path), leaf.type, f"{leaf.path} ({leaf.flag})")


def to_yaml(config: Config) -> str:
    """The whole tree as YAML; `from_yaml` reads the same configuration back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    def dump(allow_unicode: bool) -> str:
        tree = plain(dataclasses.asdict(config))
        return yaml.dump(
            tree, Dumper=Dumper, sort_keys=False, allow_unicode=allow_unicode, width=100
        )

    text = dump(allow_unicode=True)
    # PyYAML writes these line breaks unquoted, and reads them back as spaces.
    return dump(allow_unicode=False) if any(c in text for c in "\x85\u2028\u2029") else text


def from_yaml(
    path: Path | str, note: Callable[[str], None] = lambda line: None, base: Config | None = None
) -> Config:
    """Read a saved configuration. Unknown keys, wrong types and values raise UserError.

    base: what the file's keys replace values of (Config()). note: called with one line if the file
    has keys of an earlier version; it names their replacements.
    """
    values = read_keys(Path(path), note)
    return override(Config() if base is None else base, values, f"{path}: ")


def read_keys(path: Path, note: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Dotted path → value of a YAML file, under the names of today; nothing is checked yet."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys and values, got {type(tree).__name__}")
    flat = flatten(tree, f"{path}: ")
    renamed = [name for name in flat if name in RENAMED]
    if both := [name for name in renamed if RENAMED[name] in flat]:
        raise UserError(f"{path}: {both[0]} and {RENAMED[both[0]]} are the same; keep one of them")
    if renamed:
        pairs = ", ".join(f"{name} is now {RENAMED[name]}" for name in renamed)
        note(f"{path}: written by an earlier version: {pairs}")
    return {RENAMED.get(name, name): value for name, value in flat.items()}


def flatten(tree: Mapping[Any, Any], where: str = "", prefix: str = "") -> dict[str, Any]:
    """Dotted path → value of a tree of mappings; `a: {b: 1}` and `a.b: 1` are the same.

    UserError, which begins with `where`, for a key that occurs in both forms.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if value is None and path in sections():  # all of its keys are commented out
            value = {}
        section = isinstance(value, dict) and (value or path in sections())
        new = flatten(value, where, f"{path}.") if section else {path: value}
        if twice := flat.keys() & new.keys():
            raise UserError(f"{where}the key {shown(min(twice))} occurs twice")
        flat |= new
    return flat
