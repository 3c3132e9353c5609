"""Measures Dray beside the bare drivers and its peers: `make bench`, or `python -m benchmarks [row ...]`."""
