"""`fastass` and `python -m fastass`."""

import sys

from fastass.runtime.openmp import wait_passively
from fastass.runtime.signals import describe_interrupt, end_silently, raise_terminated


def main() -> int:
    """The command line, in a process of its own. Returns the exit code."""
    try:
        raise_terminated()
        wait_passively()  # before the commands load torch
        from fastass.cli.main import main as command_line

        return command_line()
    except KeyboardInterrupt as error:  # while a module was loaded
        message, code = describe_interrupt(error)
        if message:
            print(message, file=sys.stderr)
        return code
    finally:
        end_silently()


if __name__ == "__main__":
    sys.exit(main())
