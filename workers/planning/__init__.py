"""Where to cut a model: what its layers cost on this machine, and what each method would make of a cut."""
