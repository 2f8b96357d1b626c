"""Communication between stages: frames, their encoding, the rules of an edge, and transports."""
