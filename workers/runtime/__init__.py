"""The work of one stage: training loop, data, records and checkpoints."""
