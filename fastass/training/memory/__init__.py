"""Memory of a step: the largest batch that fits, and what happens when one does not."""
