"""A training run, from the checked configuration to the summary."""
