"""`fastass` and `python -m fastass`."""

import sys

from fastass.runtime.openmp import wait_passively


def main() -> int:
    """The command line, in a process of its own. Returns the exit code."""
    try:
        wait_passively()  # before the commands load torch
        from fastass.cli.main import main as command_line

        return command_line()
    except KeyboardInterrupt:  # while a module was loaded
        print("fastass: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
