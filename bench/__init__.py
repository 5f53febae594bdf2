"""Benchmarks of the operators: `pytest bench/ --benchmark-json=r.json && python -m bench.table r.json`."""
