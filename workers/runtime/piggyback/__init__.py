"""Small tensors that ride along with the frames between stages, in both directions."""
