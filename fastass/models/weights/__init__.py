"""Published weight files: reading them safely, their names, and what was loaded."""
