"""Try the metrics before a run starts."""

from __future__ import annotations

import torch

from dni.metrics.validation import MetricSums, refuse_twins
from workers.build.own_code import as_config_error
from workers.config.settings import Config


def try_metrics(config: Config) -> None:
    """Measure zeros in the shapes of the run. Raise ConfigError for a metric that fails or two of the same key."""
    refuse_twins(config.metrics)
    data, symbols = config.data, config.model.symbols or 1
    steps = ([1] if config.model.one_answer else [2]) if data.sequences else []
    output = torch.zeros(1, *steps, symbols)
    labels = torch.zeros_like(output) if data.numbers else torch.zeros(1, *steps, dtype=torch.int64)
    for metric in config.metrics:
        with as_config_error(
            f"metrics: {metric.key} cannot measure outputs {[*output.shape]}, labels {[*labels.shape]}"
        ):
            sums = MetricSums([metric])
            sums.add(output, labels)
            sums.take()
