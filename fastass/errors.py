"""Errors that the command line turns into one line and an exit code."""

from fastass.pipelines.errors import DataError


class UserError(Exception):
    """Something the user can mend. The message is one line: what, where, and the remedy."""


class TrainingFailure(Exception):
    """Training can't go on (a non-finite loss); the message names what is kept."""


class Incomplete(Exception):
    """A command has done what it could, and left out what it could not read."""


class ExportFailure(Exception):
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
