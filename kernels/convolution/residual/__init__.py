"""Residual blocks as one operator: on a GPU their backward reads and writes fewer maps."""
