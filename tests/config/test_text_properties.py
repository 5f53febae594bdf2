"""Any configuration survives its file and its flags; anything else is refused in one line."""

import dataclasses
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples, scalars, texts, values

from fastass.config.configure import from_file
from fastass.config.schema import Config
from fastass.config.text import (
    RENAMED,
    Leaf,
    from_yaml,
    leaves,
    override,
    sections,
    to_yaml,
    value_at,
)
from fastass.config.values import NONE, parse, written
from fastass.errors import UserError
from fastass.models.number_range import Range

LEAVES = {leaf.path: leaf for leaf in leaves()}
KNOWN = {**LEAVES, **RENAMED}
SECTIONS = sorted(sections())


def fitting(hint: Any, limits: Range | None = None) -> st.SearchStrategy[Any]:
    """Values of a field's type, within its range."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fitting(args[0], args[1])
    if origin in (Union, types.UnionType):
        return st.one_of([fitting(arg) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(fitting(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(fitting, args))
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is str:
        return texts
    low, high = (None, None) if limits is None else (limits.low, limits.high)
    if hint is int:
        return st.integers(low, high).filter(lambda n: limits is None or limits.holds(n))  # type: ignore[arg-type]
    return st.floats(
        low, high, allow_nan=False,
        exclude_min=limits is not None and limits.open_low,
        exclude_max=limits is not None and limits.open_high,
    )  # fmt: skip


def refused(call: Any) -> str:
    """The message of the UserError that `call` must raise: one line, not longer than a screen."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    return message


def used_or_refused(call: Any) -> None:
    try:
        call()
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 2000  # noqa: PT017


changes = st.lists(st.sampled_from(sorted(LEAVES)), max_size=8, unique=True).flatmap(
    lambda paths: st.fixed_dictionaries({path: fitting(LEAVES[path].type) for path in paths})
)


@examples()
@given(changes)
def test_any_configuration_survives_its_file(tmp_path: Path, changed: dict[str, Any]) -> None:
    try:
        config = override(Config(), changed)
    except UserError as error:  # values that exclude each other
        assert "\n" not in str(error)  # noqa: PT017
        assume(False)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert from_yaml(path) == config
    assert from_file(path) == config
    assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() == vars(config).keys()


def is_lost_in_a_flag(text: Any) -> bool:
    return isinstance(text, str) and (text in NONE or "," in text or text != text.strip())


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.path)
def test_a_value_survives_its_flag(leaf: Leaf) -> None:
    """Apart from those that a command line cannot hold: unset, and texts around a comma."""

    @examples(0.2)
    @given(fitting(leaf.type))
    def survives(value: Any) -> None:
        parts = value if isinstance(value, tuple) else (value,)
        assume(not any(part is None or is_lost_in_a_flag(part) for part in parts))
        assert parse(written(value), leaf.type, leaf.flag) == value

    survives()


@examples()
@given(st.sampled_from(["", *(s + "." for s in SECTIONS)]), texts, values)
def test_an_unknown_key_is_refused(tmp_path: Path, section: str, key: str, value: Any) -> None:
    assume(not any(f"{path}.".startswith(f"{section}{key}.") for path in KNOWN))
    assume(not any(f"{section}{key}".startswith(f"{path}.") for path in LEAVES))
    tree: Any = {key: value}
    for part in reversed(section.split(".")[:-1]):
        tree = {part: tree}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    assert "unknown key" in refused(lambda: from_yaml(path))


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.path)
def test_a_value_of_any_type_is_used_or_refused(leaf: Leaf) -> None:
    @examples(0.5)
    @given(scalars | values)
    def tried(value: Any) -> None:
        used_or_refused(lambda: override(Config(), {leaf.path: value}))

    tried()


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.path)
def test_a_scalar_of_the_wrong_type_is_refused(leaf: Leaf) -> None:
    """A number for a text, a text for a number, a list or mapping for either."""
    plain = leaf.type
    while get_origin(plain) in (Annotated, Union, types.UnionType):
        plain = next(arg for arg in get_args(plain) if arg is not type(None))
    wrong: dict[Any, list[Any]] = {
        int: ["many", 1.5, [1], {"a": 1}, True, float("nan"), float("inf")],
        float: ["much", [1.0], {"a": 1}, True, 10**400],
        bool: ["maybe", 1, 0, 0.0, [True], {"a": True}],
        str: [1, 1.5, True, ["a"], {"a": 1}],
    }
    for value in wrong.get(plain, [5.5, True, {"a": 1}, [[[1]]], ["x"] * 7 + [5]]):
        message = refused(
            lambda value=value: override(Config(), {leaf.path: value}, "config.yaml: ")
        )
        assert leaf.path in message, value


@examples()
@given(st.dictionaries(st.sampled_from([*LEAVES, *SECTIONS, *RENAMED]) | texts, values, max_size=4))
def test_any_file_is_used_or_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    for read in (from_yaml, from_file):
        used_or_refused(lambda read=read: read(path))


@examples(2)
@given(st.text(st.sampled_from("abz:-[]{}&*!|>'\"%@`#?, \n\t1.~=<"), max_size=60))
def test_any_text_is_used_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    used_or_refused(lambda: from_yaml(path))


def test_every_leaf_has_a_strategy() -> None:
    assert {f.name for f in dataclasses.fields(Config)} >= {path.split(".")[0] for path in LEAVES}
    for leaf in leaves():
        assert value_at(Config(), leaf.path) == leaf.default
        fitting(leaf.type).validate()
