"""A transformer layer with a memory of earlier windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.models.dropout import with_dropout
from dni.models.init import zero
from dni.recurrent import Recurrent
from dni.types import State

_STD = 0.02


class SegmentTransformer(Recurrent):
    """One causal transformer layer with carried memory (Transformer-XL, Dai et al. 2019, arXiv 1901.02860).

    A step attends to itself and to the `memory` inputs before it, in this window or earlier ones, so that the output
    does not depend on where a sequence is cut into windows. Positions enter as a learned bias per head and distance,
    added to the scores. Layer norms come before attention and before the feed-forward part, each inside a residual
    branch.

    Unlike Transformer-XL, the layer computes the gradient of the memory, which a time cut can predict. The state is
    (memory, filled): the last inputs of the layer, oldest first, (memory, B, units), and the share of the memory that
    the sequence has written, (1, B, 1) in [0, 1], without a gradient. A state of zeros is an empty memory, which gets
    no attention.

    `dropout` applies where torch's own encoder layer has it: in the attention weights, after attention, and in and
    after the feed-forward part. Raise ConfigError if `heads` does not divide `units` or `memory` < 1.
    """

    def __init__(self, units: int, heads: int, memory: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or units % heads or memory < 1:
            raise ConfigError(f"need units {units} divisible by heads {heads}, and a memory {memory} >= 1")
        self.units, self.heads, self.memory = units, heads, memory
        self.norm1, self.norm2 = nn.LayerNorm(units), nn.LayerNorm(units)
        self.query, self.key_value = nn.Linear(units, units), nn.Linear(units, 2 * units)
        self.output = nn.Linear(units, units)
        self.distance = nn.Parameter(torch.zeros(heads, memory + 1))
        hidden = with_dropout(nn.GELU(), dropout)
        self.feed_forward = nn.Sequential(nn.Linear(units, 4 * units), hidden, nn.Linear(4 * units, units))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def initial_state(self, batch: int) -> State:
        """Return an empty memory: zeros."""
        weight = self.output.weight
        return weight.new_zeros(self.memory, batch, self.units), weight.new_zeros(1, batch, 1)

    def make_identity(self) -> None:
        """Zero the last layers of both residual branches: the output is x."""
        zero(self.output)
        zero(self.feed_forward[-1])

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, units) -> (B, T, units) and the state after the window; an empty state is an empty memory."""
        memory, filled = state or self.initial_state(len(x))
        steps = x.shape[1]
        known = torch.cat([memory.transpose(0, 1), x], dim=1)  # (B, memory + T, units)
        written = (filled.detach() * self.memory).round()
        y = x + self.drop(self._attend(self.norm1(known), steps, written.view(-1, 1)))
        y = y + self.drop(self.feed_forward(self.norm2(y)))
        share = (written + steps).clamp(max=self.memory) / self.memory
        # + 0 * filled: a state must be part of the graph; its gradient is zero.
        return y, (known[:, -self.memory :].transpose(0, 1), share + 0.0 * filled)

    def _attend(self, known: Tensor, steps: int, written: Tensor) -> Tensor:
        q = self._split(self.query(known[:, self.memory :]))
        k, v = (self._split(part) for part in self.key_value(known).split(self.units, dim=-1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.units // self.heads)  # (B, heads, T, memory + T)
        at = torch.arange(known.shape[1], device=known.device)
        distance = at[self.memory :].unsqueeze(1) - at  # (T, memory + T)
        outside = (distance < 0) | (distance > self.memory)
        unwritten = at < self.memory - written  # (B, memory + T): the oldest slots of the memory
        scores = scores + self.distance[:, distance.clamp(0, self.memory)]
        weights = scores.masked_fill(outside | unwritten[:, None, None], -math.inf).softmax(dim=-1)
        attended: Tensor = self.output((self.drop(weights) @ v).transpose(1, 2).flatten(2))
        return attended

    def _split(self, x: Tensor) -> Tensor:
        """(B, S, units) -> (B, heads, S, units / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class CausalBlock(nn.Module):
    """The same layer within one window, without a state: (B, T, units) -> (B, T, units)."""

    def __init__(self, layer: SegmentTransformer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]  # type: ignore[no-any-return]


@torch.no_grad()
def draw_weights(model: nn.Module, blocks: int) -> None:
    """Draw the weights of a transformer with so many blocks as GPT-2 does (Radford et al. 2019), with zero biases.

    Linear layers and embeddings are normal with a standard deviation of 0.02. The last layer of every residual branch,
    of which there are two in a block, has 0.02 / sqrt(2 blocks). Norms and distances do not change.
    """
    last = [(part.output, part.feed_forward[-1]) for part in model.modules() if isinstance(part, SegmentTransformer)]
    residual = {id(layer) for pair in last for layer in pair}
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=_STD / math.sqrt(2 * blocks) if id(part) in residual else _STD)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
