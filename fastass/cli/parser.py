"""The parser of every command, and the values of its flags. Errors are one line."""

import argparse
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Sequence
from copy import copy
from typing import Any, NoReturn

from fastass.config.text import leaves, neighbours, parse
from fastass.config.values import kind, written
from fastass.errors import UserError


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds type, range and default to a flag's text. Of a flag's names it shows the shortest."""

    def _format_action_invocation(self, action: Action) -> str:
        if all(name.startswith("--") for name in action.option_strings):
            action = copy(action)
            action.option_strings = shortest(action.option_strings)
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: Action) -> str:
        text, bracket, default = (action.help or "").partition(" [")  # a default in words
        facts = [*_facts(action), *([default.removesuffix("]")] if bracket else [])]
        return f"{text} [{'; '.join(facts)}]" if facts else text


class AllNames(HelpFormatter):
    """The same with every name of a flag."""

    def _format_action_invocation(self, action: Action) -> str:
        return argparse.HelpFormatter._format_action_invocation(self, action)


def shortest(names: Sequence[str]) -> list[str]:
    """Of a flag's names the shortest; of a switch also the one that turns it off."""
    lengths = {name: len(name.replace("--no-", "--", 1)) for name in names}
    return [name for name in names if lengths[name] == min(lengths.values())]


def _facts(action: Action) -> list[str]:
    """Type, range and default of an argument whose `type` or `default` says them."""
    facts = [kind(action.type.hint)] if isinstance(action.type, typed) else []
    if action.default not in (None, SUPPRESS) and not isinstance(action.default, bool):
        facts.append(f"default {written(action.default)}")
    return [fact.replace("%", "%%") for fact in facts]


class Parser(ArgumentParser):
    """Prints the description with the example first, and a short usage line.

    `rare` holds the `dest`s that only `--help-all` shows; it is a flag where there are any.
    """

    def __init__(self, **settings: Any) -> None:
        usual: dict[str, Any] = {"formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(**usual | settings)
        self.rare: Collection[str] = ()

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        proposal = neighbours(str(value), [str(choice) for choice in action.choices])
        name = "/".join(action.option_strings) or action.metavar or action.dest
        raise UserError(f"{name}: unknown value {value!r}; {proposal}")

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_usage(self._brief_usage(), [], [])
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(a for a in group._group_actions if a.dest not in self.rare)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _brief_usage(self) -> str:
        """Only what must be given: `train` has ninety more flags."""
        words = [self.prog.replace("%", "%%")]
        for action in self._actions:
            name = str(action.metavar or action.dest.upper())
            if not action.option_strings:
                words.append(f"[{name}]" if action.nargs in ("?", "*") else name)
                words += ["…"] if action.nargs == "+" else []
            elif action.required:
                words.append(f"{action.option_strings[0]} {name}")
        return " ".join([*words, "[flags]"])

    def hide(self, rare: Collection[str]) -> None:
        """Show the arguments with these `dest`s in `--help-all` only."""
        self.rare = rare
        self.add_argument("--help-all", action=HelpAll, nargs=0, help="show every flag, and exit")
        self.epilog = f"{self.prog} --help-all shows {len(rare)} more flags"


class HelpAll(Action):
    """Prints the help with every flag and all its names."""

    def __call__(self, parser: ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.rare, parser.epilog, parser.formatter_class = (), None, AllNames
        parser.print_help()
        parser.exit()


class StoreValue(Action):
    """A value of the configuration, whose dotted path is the action's `dest`."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        hint = next(leaf.type for leaf in leaves() if leaf.path == self.dest)
        setattr(namespace, self.dest, parse(values, hint, option_string or self.dest))


class typed:  # noqa: N801 (used like argparse's own types, which are functions)
    """argparse's `type` for values of a type such as `Annotated[int, Range(1)]`."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    def __call__(self, text: str) -> Any:
        try:
            return parse(text, self.hint, "")
        except UserError as error:
            raise ArgumentTypeError(str(error).removeprefix(": ")) from None
