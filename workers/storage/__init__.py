"""The files of a run folder: the record of its settings, checkpoints, versions, a lock."""
