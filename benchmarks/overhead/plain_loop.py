"""The baseline of the stages: the same model, unsplit, in a plain training loop."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni.losses import summed_cross_entropy
from dni.recurrent import reset_streams
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.settings import Config


@dataclass(frozen=True)
class Trained:
    """The result of a plain run: nats per label of every step, and the rate."""

    losses: list[float]
    characters_per_s: float


def plain_loop(config: Config, threads: int) -> Trained:
    """Train the whole model by plain backpropagation with `threads` torch threads.

    The arithmetic equals that of the stages: one optimizer, gradients divided by the labels and clipped by stage.
    Building and data loading are not timed.
    """
    torch.set_num_threads(threads)
    config, data = resolve(config)
    chains = build_chains(config)
    whole = nn.ModuleList(chains)
    optimizer = config.optimizer.build(whole.parameters())
    parameters = [list(chain.parameters()) for chain in chains]
    states = [chain.initial_state(config.data.batch) for chain in chains]
    losses, characters, started = [], 0, time.perf_counter()
    for _ in range(config.steps):
        inputs, labels, reset, *_ = data.train.next()
        x = inputs
        for k, chain in enumerate(chains):
            x, after = chain(x, reset_streams(states[k], reset))
            states[k] = tuple(state.detach() for state in after)
        loss = summed_cross_entropy(x, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for of_stage in parameters:
            clip(of_stage, labels.numel(), config.optimizer.clip)
        optimizer.step()
        losses.append(loss.item() / labels.numel())
        characters += labels.numel()
    return Trained(losses, characters / (time.perf_counter() - started))


def clip(parameters: list[nn.Parameter], divisor: int, limit: float | None) -> None:
    """Divide the gradients of one stage, then clip their norm."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_div_(gradients, divisor)
    if limit is not None:
        nn.utils.clip_grad_norm_(parameters, limit)
