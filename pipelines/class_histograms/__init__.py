"""Pixels per class of every label of a data set, counted once and kept."""
