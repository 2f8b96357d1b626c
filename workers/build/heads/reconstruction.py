"""Reconstructions of the inputs of stages (`predictor.depth.reconstruction`)."""

from __future__ import annotations

from torch import Tensor

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.interfaces.reconstruction import ReconstructionInterface
from dni.methods.cut import CutContext
from dni.predictors.head_settings import HeadSettings
from dni.predictors.reconstruction import Reconstruction
from workers.build.example import example
from workers.build.shapes import activation_shape
from workers.config.settings import Config


def with_reconstruction(config: Config, cut: CutContext, interface: Interface) -> Interface:
    """Return the interface of a cut with the reconstruction that the settings ask for, if any. Raises ConfigError."""
    settings = config.predictor.depth
    if not isinstance(settings, HeadSettings) or not settings.reconstruction or not config.depth.predicts:
        return interface
    model = reconstruction(config, cut).to(cut.device)
    return ReconstructionInterface(
        interface, model, weight=settings.reconstruction, learning_rate=settings.learning_rate
    )


def reconstruction(config: Config, cut: CutContext) -> Reconstruction:
    """Build the reconstruction of a stage's input. Raises ConfigError if the input or output is of another kind."""
    inputs, symbols = _row_of_input(config, cut.index)
    activation_shape(config, cut.index)  # refuses named tensors
    if len(cut.shape) > 1 and len(inputs) != len(cut.shape):
        raise _refusal(cut.index, f"the input {inputs} is no feature maps, as the output {cut.shape}")
    return Reconstruction(cut.shape, inputs, symbols)


def _row_of_input(config: Config, index: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of a row of a stage's input, and the number of symbols; 0 if it has numbers."""
    if index:
        return activation_shape(config, index - 1), 0
    given = example(config, 1, 1)
    if not isinstance(given, Tensor):
        raise _refusal(index, f"the data have the inputs {', '.join(given)}")
    symbols = 0 if given.is_floating_point() else config.model.input_symbols or 0
    return tuple(given.shape[2 if config.data.sequences else 1 :]), symbols


def _refusal(index: int, why: str) -> ConfigError:
    return ConfigError(
        f"predictor.depth.reconstruction needs one tensor at every cut, and at stage {index} {why}: set "
        "predictor.depth.reconstruction=0"
    )
