"""Benchmarks of cuts in time."""
