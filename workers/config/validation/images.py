"""The rules between settings where the data are images."""

from __future__ import annotations

from dni.errors import ConfigError
from workers.config.schema import IMAGES, ModelKind, PredictorKind, TimeMethod
from workers.config.settings import Config

IMAGE_MODELS = (ModelKind.mlp_bn, ModelKind.cnn, ModelKind.resnet)
MAP_MODELS = (ModelKind.cnn, ModelKind.resnet)  #: between whose layers there are feature maps


def check_images(config: Config) -> None:
    """Refuse what does not go with images, or only with them. Raises ConfigError."""
    _check_convolutions(config)
    data, model = f"data={config.data.kind.name}", f"model={config.model.kind.name}"
    if config.data.kind not in IMAGES:
        if config.model.kind in IMAGE_MODELS:
            raise ConfigError(f"{model} reads images, and {data} has none: use data=mnist or data=cifar10")
        if config.data.noise:
            raise ConfigError(f"data.noise={config.data.noise} is for images, and {data} has symbols: set data.noise=0")
        return
    if config.model.kind not in IMAGE_MODELS:
        raise ConfigError(f"{data} has images, and {model} reads symbols: use model=mlp_bn, model=cnn or model=resnet")
    _check_no_time(config, data)
    if config.data.batch == 1:
        raise ConfigError(f"data.batch=1: {model} has batch norm, which needs a batch: set data.batch=64, say")


def _check_no_time(config: Config, data: str) -> None:
    if config.time.method is not TimeMethod.truncated:
        method = config.time.method.name
        raise ConfigError(f"time={method} has nothing to cut, for {data} has no time: use time=truncated")
    if config.data.window != 1 or config.data.sequence is not None:
        raise ConfigError(f"{data} has no sequences: set data.window=1 and data.sequence=null")
    if config.evaluate.probe is not None:
        raise ConfigError(
            f"evaluate.probe={config.evaluate.probe} goes through a sequence, and {data} has none: "
            "set evaluate.probe=null"
        )


def _check_convolutions(config: Config) -> None:
    """A predictor that convolves needs height and width."""
    depth, time, model = config.predictor.depth, config.predictor.time, config.model.kind
    if time.kind is PredictorKind.conv:
        raise ConfigError("predictor.time.kind=conv: a state has no height and width; use predictor.time.kind=mlp, say")
    if depth.kind is not PredictorKind.conv:
        return
    if model not in MAP_MODELS:
        raise ConfigError(
            f"predictor.depth.kind=conv needs feature maps, and between the layers of model={model.name} there are "
            "none: use predictor=critic, say (or model=cnn or model=resnet)"
        )
    if not depth.hidden:
        raise ConfigError("predictor.depth.kind=conv needs channels: set predictor.depth.hidden=32, say")
