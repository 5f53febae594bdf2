"""The parser of every command, and the values of its flags. Errors are one line."""

import argparse
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from fastass.config.text import leaves, neighbours, parse
from fastass.errors import UserError


class Parser(argparse.ArgumentParser):
    """Prints the description with the example first, and a short usage line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
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
            formatter.add_arguments(group._group_actions)
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


def typed(hint: Any) -> Callable[[str], Any]:
    """argparse's `type` for values of a type such as `Annotated[int, Range(1)]`."""

    def read(text: str) -> Any:
        try:
            return parse(text, hint, "")
        except UserError as error:
            raise ArgumentTypeError(str(error).removeprefix(": ")) from None

    return read
