"""Choose the device of a stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dni.errors import ConfigError
from workers.config.schema import Precision
from workers.config.settings import Config


def device_of(config: Config, index: int) -> torch.device:
    """Return the stage's device; `auto` distributes stages over the GPUs. Raises ConfigError for a missing device."""
    name = config.devices[index if len(config.devices) > 1 else 0]
    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda", index % gpus) if gpus else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"devices: stage {index} asks for {name!r}: use auto, cpu or cuda:N") from error
    if (device.type == "cuda" and (device.index or 0) >= gpus) or device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"devices: stage {index} asks for {name!r}, but this machine has {gpus} GPUs: use auto or cpu"
        )
    return device


def refuse_precision(config: Config, devices: Sequence[str]) -> None:
    """Raise ConfigError if a stage's device cannot compute in the precision of the settings."""
    for stage, device in enumerate(devices):
        if config.precision is Precision.fp16 and device == "cpu":
            raise ConfigError(f"precision=fp16 needs a GPU, and stage {stage} is on cpu: use precision=bf16 or fp32")
        if config.precision is Precision.bf16 and device != "cpu" and not torch.cuda.is_bf16_supported():
            raise ConfigError(f"precision=bf16 needs a newer GPU than {device} of stage {stage}: use precision=fp16")
