"""The loggers of `tracking.loggers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from dni.errors import ConfigError
from workers.config.schema import LoggerKind
from workers.tracking.display import Display, IsolatedSink
from workers.tracking.loggers.base import LoggedRun
from workers.tracking.loggers.mlflow_tracking import MlflowTracking
from workers.tracking.loggers.weights_and_biases import WeightsAndBiases


class Service(NamedTuple):
    """Where records can go."""

    title: str
    package: str  #: that it needs; the extra has the same name
    make: Callable[[LoggedRun], Display]


SERVICES = {
    LoggerKind.wandb: Service("Weights & Biases", "wandb", WeightsAndBiases),
    LoggerKind.mlflow: Service("MLflow", "mlflow", MlflowTracking),
}


def loggers_of(kinds: Sequence[LoggerKind], run: LoggedRun) -> list[IsolatedSink]:
    """Return the loggers, which begin with the first record."""
    return [IsolatedSink(SERVICES[kind].title, partial(SERVICES[kind].make, run)) for kind in kinds]


def refuse_missing_loggers(kinds: Sequence[LoggerKind]) -> None:
    """Raise ConfigError for a logger whose package is not installed."""
    for kind in kinds:
        package = SERVICES[kind].package
        if find_spec(package) is None:
            raise ConfigError(
                f"tracking.loggers=[{kind.name}] needs the package {package}: pip install 'dni[{package}]' (or leave "
                "it out of tracking.loggers)"
            )
