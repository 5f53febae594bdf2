"""Benchmarks of the operators; `conftest` says how they measure, `table` prints the results."""
