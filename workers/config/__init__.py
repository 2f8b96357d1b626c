"""Settings: their names, types and defaults."""
