"""What the project promises, measured: one module per question, each run by a target of the Makefile."""
