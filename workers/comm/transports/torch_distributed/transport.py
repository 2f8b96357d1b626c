"""Settings of links over torch.distributed, which some builds of torch lack."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch

from dni.errors import ConfigError
from dni.plugin import RunContext
from workers.comm.transports.base import ChannelEnd, LinkContext, Listener
from workers.comm.transports.process_link import ProcessTransport

if TYPE_CHECKING:
    from workers.comm.transports.torch_distributed.device_pair import MakeGroup

Backend = enum.Enum("Backend", ["gloo", "nccl"])


@dataclass
class TorchDistributed(ProcessTransport):
    """A gloo group of two per edge, and with `backend=nccl` two NCCL groups for stages on GPUs; plaintext only.

    torch.distributed is imported when the first link is made.
    """

    backend: Backend = Backend.gloo  # carries activations and gradients; nccl: from GPU to GPU, one GPU per stage;
    # gloo carries everything else

    name: ClassVar[str] = "torch_distributed"

    def listen(self, bind: str, context: LinkContext) -> Listener:
        from workers.comm.transports.torch_distributed.link import TorchDistributedListener

        return TorchDistributedListener(
            bind,
            handshake=context.handshake,
            settings=self.link_settings(context),
            device_group=self._device_group(),
        )

    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        from workers.comm.transports.torch_distributed.link import torch_distributed_connect

        return torch_distributed_connect(
            address, context.handshake, self.link_settings(context), device_group=self._device_group()
        )

    def check(self, run: RunContext) -> None:
        if self.backend is Backend.nccl and self.checksum:
            raise ConfigError(
                "transport.checksum=true covers what passes through the CPU, and with transport.backend=nccl "
                "activations do not: set transport.checksum=false, or transport.backend=gloo"
            )

    def check_machine(self, devices: Sequence[str], first: int = 0) -> None:
        """Raise ConfigError for stages that NCCL cannot join.

        Only the handshake detects that stages of several processes share a GPU under different names.
        """
        if self.backend is not Backend.nccl:
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

    def _device_group(self) -> MakeGroup | None:
        """Return the function that makes groups for tensors from GPU to GPU; None with gloo."""
        if self.backend is not Backend.nccl:
            return None
        from workers.comm.transports.torch_distributed import nccl

        return nccl.nccl_group
