"""What a run folder holds: the record of its settings, checkpoints, versions, a lock."""
