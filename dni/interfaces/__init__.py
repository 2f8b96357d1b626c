"""Where the gradient of a value comes from that has crossed a cut: a model, the loss, or the next stage."""
