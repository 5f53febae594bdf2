"""The parts of `fastass bench`, one per file."""
