"""Models of the gradient at a cut: regressors, and critics that model the loss itself."""
