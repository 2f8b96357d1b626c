"""Go on with a run, or begin a new one with its weights."""
