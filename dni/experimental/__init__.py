"""Methods, models and data that the benchmarks do not recommend. They are plug-ins: no code outside imports them."""
