"""Methods that the project's own benchmarks do not recommend, kept as plug-ins: nothing outside names them."""
