"""`python -m fastass`."""

import sys

from fastass.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
