"""Errors that the command line turns into one line and an exit code."""

from fastass.pipelines.errors import DataError, printable


class _OneLine(Exception):
    """Its message may hold names of files, so it is made fit for a terminal, as DataError's."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UserError(_OneLine):
    """Something the user can mend. The message is one line: what, where, and the remedy."""


class TrainingFailure(_OneLine):
    """Training can't go on (a non-finite loss); the message names what is kept."""


class Incomplete(_OneLine):
    """A command has done what it could, and left out what it could not read."""


class ExportFailure(_OneLine):
    """An exported network does not compute what it was exported from."""


# fastass.models raises UserError and its subclass WeightsError.
USER_ERRORS = (UserError, DataError)

__all__ = [
    "USER_ERRORS",
    "DataError",
    "ExportFailure",
    "Incomplete",
    "TrainingFailure",
    "UserError",
]
