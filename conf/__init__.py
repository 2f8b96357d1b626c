"""The settings of a run: Hydra finds them as `pkg://workers.conf`."""
