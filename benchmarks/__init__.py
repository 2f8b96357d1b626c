"""Benchmarks of the project's claims: one module per question, each run by a target of the Makefile."""
