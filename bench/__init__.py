"""Benchmarks: operators, reading, a training step, whole runs and many ranks."""
