"""A trained run's model with more layers, which computes the same, in a run folder of its own."""
