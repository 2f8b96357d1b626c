"""The rules of links by NCCL that depend on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from dni.errors import ConfigError
from workers.config.schema import BackendKind
from workers.config.settings import Config


def check_gpus(config: Config, devices: Sequence[str], first: int = 0) -> None:
    """Refuse links by NCCL between stages from `first` on, on these devices, that it cannot join. Raises ConfigError.

    Whether stages of several processes are on one GPU under different names, only their handshake tells.
    """
    if config.transport.backend is not BackendKind.nccl:
        return
    wanted = "transport.backend=nccl joins stages on GPUs"
    for stage, device in enumerate(devices, first):
        if not device.startswith("cuda"):
            raise ConfigError(
                f"{wanted}, and stage {stage} is on {device}: set devices=[cuda:0,cuda:1], say, or "
                "transport.backend=gloo"
            )
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        raise ConfigError(
            f"{wanted}, and this torch has no NCCL: install its CUDA build, or set transport.backend=gloo"
        )
    for stage, (one, next_one) in enumerate(pairwise(devices), first):
        if one == next_one:
            raise ConfigError(
                f"{wanted} of their own, and stages {stage} and {stage + 1} are both on {one}: set "
                "devices=[cuda:0,cuda:1], say, or transport.backend=gloo"
            )
