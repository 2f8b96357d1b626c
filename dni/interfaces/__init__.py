"""Interfaces: sources of the gradient at a cut, be it a model, a loss or the next stage."""
