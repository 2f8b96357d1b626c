"""Services that get the records of a run: one file each, and `build` chooses them."""
