"""Optimizers of the networks and their learning rates (section 4.2)."""
