"""One part of the network: run it, go back, update; and how to keep or recompute what a late gradient needs."""
