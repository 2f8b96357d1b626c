"""Benchmarks over slow links between emulated hosts."""
