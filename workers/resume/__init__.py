"""Resume a run, or start a new one from its weights."""
