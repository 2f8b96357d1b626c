"""Rules between settings: what cannot run is refused in one line before anything starts."""
