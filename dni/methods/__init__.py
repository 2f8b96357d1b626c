"""Methods: where the gradient at a cut comes from, in depth between stages and in time between windows.

Each is a dataclass whose fields are its settings. A run names one by `_target_`, these as well as a user's own.
"""
