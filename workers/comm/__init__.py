"""What stages exchange: frames, their bytes, the rules of an edge, and the transports below it."""
