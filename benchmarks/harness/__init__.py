"""What benchmarks share: methods, tuning, grids of runs, tables."""
