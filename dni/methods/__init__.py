"""Methods: where the gradient at a cut comes from, in depth between stages and in time between windows.

Each is a dataclass whose fields are its settings. A run names the class by `_target_`, here or in a user's module.
"""
