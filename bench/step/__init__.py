"""One training step and training end to end, the engine beside the reference path."""
