"""Faults in real runs: what they cost, and what they leave alone."""
