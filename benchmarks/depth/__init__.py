"""Benchmarks of cuts in depth."""
