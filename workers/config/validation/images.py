"""The rules between settings where the data are images."""

from __future__ import annotations

from dni.errors import ConfigError
from workers.config.schema import IMAGES, ModelKind
from workers.config.settings import Config

IMAGE_MODELS = (ModelKind.mlp_bn, ModelKind.cnn, ModelKind.resnet)


def check_images(config: Config) -> None:
    """Refuse what does not go with images, or only with them. Raises ConfigError."""
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
    if config.time.answers or config.whole_sequences:
        raise ConfigError(f"time={config.time.name} has nothing to cut, for {data} has no time: use time=truncated")
    if config.data.window != 1 or config.data.sequence is not None:
        raise ConfigError(f"{data} has no sequences: set data.window=1 and data.sequence=null")
    if config.evaluate.probe is not None:
        raise ConfigError(
            f"evaluate.probe={config.evaluate.probe} goes through a sequence, and {data} has none: "
            "set evaluate.probe=null"
        )
