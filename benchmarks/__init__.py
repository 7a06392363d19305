"""Benchmarks. A package, so that `python -m benchmarks.gpu` runs ours even if another package has a `benchmarks`."""
