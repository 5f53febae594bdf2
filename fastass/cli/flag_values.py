"""Values of flags, parsed by the type that is written beside them; errors name the flag."""

from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import Any

from fastass.config.text import leaves, parse
from fastass.errors import UserError


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
