"""Data that people have already: arrays of tokens, and tables of numbers, read as sequences."""
