"""Checks of a model, its data and its settings before a long run, each of which passes or fails with a reason."""
