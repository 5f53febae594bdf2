"""`python -m fastass`."""

import sys

from fastass.cli import main

if __name__ == "__main__":
    sys.exit(main())
