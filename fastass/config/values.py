"""One value as text: what a type permits, in words, and reading it from a flag or a YAML file."""

import difflib
import os
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fastass.errors import UserError
from fastass.models.number_range import AUTO, Range

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NONE = ("", "none", "None")
KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
LONGEST = 80  # characters of a wrong value that a message repeats
LONGEST_NAME = 255  # bytes of a file name, on the usual file systems


def neighbours(word: str, known: Iterable[str]) -> str:
    """ "did you mean …?" for an unknown word, or the whole list if no known word is similar."""
    known = list(known)
    similar = [name for name in known if name.endswith(f".{word}")] or difflib.get_close_matches(
        word[:LONGEST], known, n=3, cutoff=0.5
    )
    return f"did you mean {', '.join(similar)}?" if similar else f"known: {', '.join(known)}"


def kind(hint: Any) -> str:
    """What a type permits, for the help: `whole number, at least 1`; `WxH`; `text or unset`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(args[1]) if args[0] is str else f"{kind(args[0])}, {args[1]}"
    if origin in (Union, types.UnionType):
        return " or ".join("unset" if a is type(None) else kind(a) for a in args)
    if origin is Literal:
        return ", ".join(map(str, args))
    if origin is tuple:
        return _form(args, ranges=True)
    return KINDS[hint]


def _form(args: tuple[Any, ...], ranges: bool = False) -> str:
    """How a tuple is written."""
    if args[-1] is Ellipsis:
        return (
            f"list of {kind(args[0])}" if get_origin(args[0]) is None else f"list: {kind(args[0])}"
        )
    form = "WxH" if _is_size(args) else ",".join(_plain(arg).__name__ for arg in args)
    limits = [a for a in get_args(args[0]) if isinstance(a, Range)]
    return f"{form}, each {limits[0]}" if ranges and limits else form


def _plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_size(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and all(_plain(arg) is int for arg in args)


def written(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, tuple):
        size = len(value) == 2 and all(isinstance(v, int) for v in value)
        return ("x" if size else ",").join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None else str(value)


def parse(text: Any, hint: Any, where: str) -> Any:
    """A flag's text or a YAML value as a value of type `hint`, within its range.

    UserError for a value that does not fit; `where` names the flag or the key in it.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = args[1]
        if isinstance(limits, Range) and limits.auto and text == "auto":
            return AUTO
        number = parse(text, args[0], where)
        if isinstance(limits, Range) and not limits.holds(number):
            raise UserError(f"{where}: expected {kind(hint)}, got {shown(text)}")
        return number
    if origin in (Union, types.UnionType):
        words = [w for a in args if get_origin(a) is Literal for w in get_args(a)]
        if text in words:
            return text
        if text == "":  # of a script's variable that was never set
            raise UserError(f"{where}: expected {kind(hint)}, got an empty text; unset is `none`")
        if text is None or text in NONE:
            return None
        plain = (a for a in args if a is not type(None) and get_origin(a) is not Literal)
        return parse(text, next(plain), where)
    if origin is Literal:
        choices = {str(a): a for a in args}
        if str(text)[:LONGEST] not in choices:
            near = neighbours(str(text), choices)
            raise UserError(f"{where}: unknown value {shown(text)}; {near}")
        return choices[str(text)]
    if origin is tuple:
        return _parse_tuple(text, args, where)
    return _parse_scalar(text, hint, where)


def shown(value: Any) -> str:
    """A value in a message: not more than a line of it."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _parse_tuple(text: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    parts = text
    if isinstance(text, str):
        separator = "x" if _is_size(args) and "x" in text else ","
        none = args[-1] is Ellipsis and text in NONE
        parts = [] if none else [part.strip() for part in text.split(separator)]
        if "" in parts:
            raise UserError(f"{where}: expected no empty value in a list, got {shown(text)}")
    if not isinstance(parts, (list, tuple)):
        raise UserError(f"{where}: expected a list, got {shown(text)}")
    if args[-1] is Ellipsis:
        return tuple(parse(part, args[0], where) for part in parts)
    if len(parts) != len(args):
        raise UserError(f"{where}: expected {len(args)} values ({_form(args)}), got {shown(text)}")
    return tuple(parse(part, arg, where) for part, arg in zip(parts, args, strict=True))


def _parse_scalar(text: Any, hint: Any, where: str) -> Any:
    value = text
    if hint is bool and isinstance(value, str):
        value = WORDS.get(value.lower(), value)
    right = isinstance(value, bool) == (hint is bool)
    right = right and (hint is not str or isinstance(value, str))
    try:
        if not right or (hint is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        return hint(value)
    except (TypeError, ValueError, OverflowError):
        expected = {int: "a whole number", float: "a number"}.get(hint, KINDS[hint])
        raise UserError(f"{where}: expected {expected}, got {shown(text)}") from None


def local_path(text: str | Path) -> Path:
    """A path on this machine.

    UserError for a URL, which would become a folder named `s3:`, for an empty text, which would
    become the current folder (a script's variable that was never set), and for a name too long.
    """
    if not str(text):
        raise UserError("a path is empty; give its name, or . for the current folder")
    if "://" in str(text):
        raise UserError(
            f"{text}: fastass reads and writes local files only; copy or mount it, see "
            "docs/pipelines.md, Remote shards"
        )
    path = Path(text)
    if any(len(os.fsencode(name)) > LONGEST_NAME for name in path.parts):
        raise UserError(
            f"{shown(str(text))}: a name in this path is longer than {LONGEST_NAME} bytes; "
            "give a shorter one"
        )
    return path


def output_folder(text: str | Path) -> Path:
    """A folder for results, there already or not yet.

    UserError where something that is no folder has this name, or that of a folder above it.
    """
    path = local_path(text)
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"{there}: exists and is not a directory; choose another --out")
    return path
