"""`dni-status`: where a run is, and who waits for whom."""
