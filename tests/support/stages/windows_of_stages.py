"""Sequences in windows through stages with constant weights, and the exact gradients of the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni.interfaces.base import Interface
from dni.recurrent import Chain, reset_streams, unpack
from dni.stages.base import Stage


def loss_of(output: Tensor) -> Tensor:
    """A loss that is not linear in the output."""
    return (output.square() / 2 + torch.sin(output)).sum()


def gradients_of(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for m in modules for p in m.parameters()]


def of_whole(chains: Sequence[Chain], windows: Sequence[Tensor], resets: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the gradients of all parameters by one backward pass through the whole sequence."""
    states = [chain.initial_state(len(windows[0])) for chain in chains]
    total = torch.zeros((), dtype=windows[0].dtype)
    for x, reset in zip(windows, resets, strict=True):
        for k, chain in enumerate(chains):
            x, states[k] = chain(x, reset_streams(states[k], reset))
        total = total + loss_of(x)
    parameters = [p for chain in chains for p in chain.parameters()]
    return list(torch.autograd.grad(total, parameters, materialize_grads=True, allow_unused=True))


def of_windows(
    stages: Sequence[Stage],
    windows: Sequence[Tensor],
    resets: Sequence[Tensor | None],
    times: Sequence[Interface] | None = None,
) -> list[Tensor]:
    """Return the gradients of all parameters, summed over windows without an update, through all stages locked.

    `times` are the cuts in time of the stages; None: nothing is predicted.
    """
    for n, (x, reset) in enumerate(zip(windows, resets, strict=True)):
        futures = []
        for k, stage in enumerate(stages):
            x, state = stage.forward(x, reset)
            assert state is not None
            futures.append(None if times is None else times[k].gradient(n, state, None))
        leaf = x.detach().requires_grad_()
        (back,) = torch.autograd.grad(loss_of(leaf), leaf)
        for stage, future in zip(reversed(stages), reversed(futures), strict=True):
            gradients = stage.backward(back, future)
            back = gradients.activation
    return gradients_of([stage.module for stage in stages])


class FutureOf(Interface):
    """The exact gradient of the rest of a sequence, for the states of one of several stages in a row."""

    def __init__(self, chains: Sequence[Chain], index: int, windows: Sequence[Tensor], resets: Sequence[Tensor | None]):
        self.chains, self.index, self.windows, self.resets = chains, index, windows, resets

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        """All stages start from their state after the window; only that of this stage gets a gradient."""
        rest = [*zip(self.windows[step + 1 :], self.resets[step + 1 :], strict=True)]
        if not rest:
            return None
        states = self._before(step)
        leaf = value.detach().requires_grad_()
        states[self.index] = unpack(leaf, states[self.index])
        total = torch.zeros((), dtype=value.dtype)
        for x, reset in rest:
            for k, chain in enumerate(self.chains):
                x, states[k] = chain(x, reset_streams(states[k], reset))
            total = total + loss_of(x)
        return torch.autograd.grad(total, leaf)[0]

    @torch.no_grad()
    def _before(self, step: int) -> list[tuple[Tensor, ...]]:
        states = [chain.initial_state(len(self.windows[0])) for chain in self.chains]
        for x, reset in zip(self.windows[: step + 1], self.resets[: step + 1], strict=True):
            for k, chain in enumerate(self.chains):
                x, states[k] = chain(x, reset_streams(states[k], reset))
        return states
