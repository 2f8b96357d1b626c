"""Choose the device of a stage."""

from __future__ import annotations

import torch

from dni.errors import ConfigError
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
