"""Targets of the cut in time: what a predictor of the state's gradient is taught."""
