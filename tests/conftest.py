"""Loads fastass before any test loads torch, for its OpenMP setting."""

import fastass  # noqa: F401
