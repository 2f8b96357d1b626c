"""Stages: forward, backward and update of one part of a network, with late gradients too."""
