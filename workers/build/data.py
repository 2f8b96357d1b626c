"""Open the data set that the settings name."""

from __future__ import annotations

from dataclasses import replace

from dni.data.base import Data, DataContext
from dni.errors import ConfigError
from workers.build.own_code import as_config_error
from workers.config.settings import Config


def open_data(config: Config) -> Data:
    """Open the sources of windows. Raises DataError for unreadable data, ConfigError for sizes that do not fit."""
    with as_config_error(f"data={config.data.name} cannot be opened"):
        opened = config.data.open(context_of(config))
    if not isinstance(opened, Data):
        raise ConfigError(
            f"data={config.data.name}: open gives a {type(opened).__name__}, and must give a dni.data.Data "
            "(dni.data.in_passes makes one of two sources)"
        )
    return opened


def context_of(config: Config) -> DataContext:
    """Return the settings of the run that a data set may use."""
    return DataContext(
        window=config.window,
        future_labels=config.future_labels,
        seed=config.seed,
        whole_sequences=config.whole_sequences,
        probe_windows=config.evaluate.probe_windows,
        valid_windows=config.evaluate.windows,
    )


def resolve(config: Config) -> tuple[Config, Data]:
    """Open the data, and fill in the settings that depend on it or on the run's length. Raises like `open_data`."""
    config = replace(config, data=config.data.located())
    data = open_data(config)
    config = with_shapes(config, data.symbols, data.input_symbols, data.input_shape)
    schedule = config.optimizer.schedule
    if schedule.ends:
        schedule = replace(schedule, decay_steps=config.decay_steps)
    optimizer = replace(config.optimizer, schedule=schedule)
    return replace(config, data=replace(config.data, sha256=data.sha256), optimizer=optimizer), data


def with_shapes(config: Config, symbols: int, input_symbols: int, input_shape: tuple[int, ...] | None) -> Config:
    """The settings for a model of so many labels and input symbols, of inputs of this shape if they are numbers."""
    shape = None if input_shape is None else [*input_shape]
    model = replace(config.model, symbols=symbols, input_symbols=input_symbols, input_shape=shape)
    return replace(config, model=model)
