"""How well predictors fit, and figures of validation beside the loss."""
