"""Data sets of torch, which a function of the user returns, as data sets of a run."""
