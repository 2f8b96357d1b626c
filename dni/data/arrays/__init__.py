"""A user's own arrays of tokens and tables of numbers, read as sequences."""
