"""Targets of the cut in time, on which the predictor of the state's gradient is trained."""
