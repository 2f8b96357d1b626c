"""`dni-new`: a folder to begin a study with."""
