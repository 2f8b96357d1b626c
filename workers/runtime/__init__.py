"""What one worker does: the training loop, its data, its records, its checkpoints."""
