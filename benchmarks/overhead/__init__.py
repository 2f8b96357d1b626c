"""Benchmarks of the cost of workers and links."""
