"""Rules between settings: refuse a run that cannot work in one line, before anything starts."""
