"""Methods, models and data that the benchmarks do not recommend, kept as plug-ins: nothing outside names them."""
