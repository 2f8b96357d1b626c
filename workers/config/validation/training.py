"""The rule of dropout."""

from __future__ import annotations

from dni.errors import ConfigError
from workers.config.schema import ModelKind
from workers.config.settings import Config

#: Models with dropout between their layers.
STACKS = (ModelKind.lstm, ModelKind.gru, ModelKind.mingru)


def check_training(config: Config) -> None:
    """Refuse dropout that would do nothing. Raises ConfigError."""
    model = config.model
    if model.dropout and model.layers == 1 and model.kind in STACKS:
        raise ConfigError(
            f"model.dropout={model.dropout} is between the layers of model={model.kind.name}, and there is one: set "
            "model.layers=2 or more (or model.dropout=0)"
        )
