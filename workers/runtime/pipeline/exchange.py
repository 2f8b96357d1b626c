"""What parts of a pipeline exchange around an update: gradients and values of tied weights, and norms of gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dni.stages.base import Stage
from dni.stages.clipping import Clipping, finite
from dni.stages.tied import Tied, replicas_of
from workers.build.warm_start import chains_without_content
from workers.config.settings import Config
from workers.runtime.piggyback.global_norm import norms_of, scale

#: Tags of messages: the gradient and the value of a tied weight.
GRADIENT, VALUE = 4, 5


class TiedExchange:
    """Sends the gradients of replicas to the owner before an update, and its values back after it.

    All stages go through the parameters and their parts in the same order.

    Args:
        ties: the parameters that several parts share.
        stages: the parts of this process, by index.
        size: number of processes; part k is in process k mod `size`.
    """

    def __init__(self, ties: Sequence[Tied], stages: Mapping[int, Stage], size: int) -> None:
        self.ties, self.stages, self.size = ties, stages, size

    def gradients(self) -> None:
        """Add the replicas' gradients to the owners', the last part's first."""
        for tie, part in self._pairs():
            gradient = None
            if part in self.stages:
                replica = self._parameter(tie, part)
                gradient, replica.grad = replica.grad, None
            moved = self._move(tie, gradient, part, tie.owner, GRADIENT)
            if moved is not None and tie.owner in self.stages:
                parameter = self._parameter(tie, tie.owner)
                total = moved.to(parameter.device)
                parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)

    def values(self) -> None:
        """Copy the owners' values into the replicas."""
        for tie, part in self._pairs():
            value = self._parameter(tie, tie.owner).detach() if tie.owner in self.stages else None
            moved = self._move(tie, value, tie.owner, part, VALUE)
            if moved is not None and part in self.stages:
                self.stages[part].set_replicas({tie.names[part]: moved})

    def _pairs(self) -> Iterator[tuple[Tied, int]]:
        for tie in self.ties:
            yield from ((tie, part) for part in sorted(tie.names, reverse=True) if part != tie.owner)

    def _parameter(self, tie: Tied, part: int) -> nn.Parameter:
        return self.stages[part].module.get_parameter(tie.names[part])

    def _move(self, tie: Tied, tensor: Tensor | None, source: int, target: int, tag: int) -> Tensor | None:
        """Return the tensor in the process of the part `target`."""
        if source in self.stages and target in self.stages:
            return tensor
        if source in self.stages:
            sent = torch.zeros(tie.parameter.shape, dtype=tie.parameter.dtype) if tensor is None else tensor.cpu()
            dist.send(sent.contiguous(), target % self.size, tag=tag)
        elif target in self.stages:
            received = torch.empty(tie.parameter.shape, dtype=tie.parameter.dtype)
            dist.recv(received, source % self.size, tag=tag)
            return received
        return None


class NormExchange:
    """Clips the gradients of all parts by the norm of all of them, in the order of the unsplit model.

    Args:
        ties: the parameters that several parts share, each of which counts once.
        stages: the parts of this process, by index, whose `clipping` this replaces.
        largest: the largest norm.
    """

    def __init__(self, config: Config, ties: Sequence[Tied], stages: Mapping[int, Stage], largest: float) -> None:
        sizes = [
            len([name for name, _ in chain.named_parameters() if name not in replicas_of(ties, part)])
            for part, chain in enumerate(chains_without_content(config))
        ]
        self.stages, self.largest, self.total = stages, largest, sum(sizes)
        self.parts = {part: PartNorms(sum(sizes[:part]), largest) for part in stages}
        for part, stage in stages.items():
            stage.clipping = self.parts[part]

    def finish(self) -> None:
        """Take the optimizer steps of this process's parts. Raises DivergedError in all processes if one must."""
        norms = torch.zeros(self.total, dtype=torch.float64)
        for part in self.parts.values():
            norms[part.start : part.start + len(part.norms)] = part.norms
        dist.all_reduce(norms)
        for stage in self.stages.values():
            parameters = [*stage.module.parameters()]
            norm = finite(torch.linalg.vector_norm(norms.to(parameters[0].dtype)).item())
            scale(parameters, self.largest, norm)
            stage.finish_step(norm)


class PartNorms(Clipping):
    """The gradient norms of one part's parameters, from the place `start` on in the unsplit model."""

    def __init__(self, start: int, largest: float) -> None:
        super().__init__(largest)
        self.start, self.norms = start, torch.zeros(0)

    def clip(self, parameters: Sequence[nn.Parameter]) -> None:
        self.norms = norms_of(parameters)


class Exchange:
    """Both of them, where the settings ask for them."""

    def __init__(self, config: Config, ties: Sequence[Tied], stages: Mapping[int, Stage]) -> None:
        clip = config.optimizer.clip
        self.tied = TiedExchange(ties, stages, config.stages)
        self.norm = None
        if config.optimizer.over_all_stages and clip is not None:
            self.norm = NormExchange(config, ties, stages, clip)

    def before_update(self) -> None:
        """Bring the gradients of tied weights together."""
        self.tied.gradients()

    def after_update(self) -> None:
        """Take steps that wait for the norm of all stages, and send the new values of tied weights."""
        if self.norm is not None:
            self.norm.finish()
        self.tied.values()
