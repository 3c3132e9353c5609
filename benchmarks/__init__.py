"""Measures Dray beside what the drivers can do alone: `make bench`, or `python -m benchmarks [row ...]`."""
