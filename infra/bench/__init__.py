"""Benchmarks anybody can run: each states a ratio to a baseline measured in the same run."""
