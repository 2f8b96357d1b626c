"""A transformer layer that remembers what came before the window."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.models.dropout import with_dropout
from dni.recurrent import Recurrent
from dni.types import State


class SegmentTransformer(Recurrent):
    """One causal transformer layer with carried memory (Transformer-XL, Dai et al. 2019, arXiv 1901.02860).

    A step attends to itself and to the `memory` inputs before it, in this window or an earlier one, so that cutting
    a sequence into windows changes nothing. Positions enter as one learned number per head and distance, added to the
    scores. Layer norms stand before attention and before the feed-forward part, each with a residual path.

    Unlike in Transformer-XL, the gradient of the remembered inputs is computed: whoever cuts the sequence decides what
    becomes of it. The state is (memory, filled): the last inputs of the layer, oldest first (memory, B, units), and the
    share of them that the sequence has written, (1, B, 1) in [0, 1], without a gradient. A stream of zeros is therefore
    an empty memory, to which nothing attends.

    `dropout` is where torch's own encoder layer has it: in the attention weights, after attention, and in and after the
    feed-forward part. Raises ConfigError if `heads` do not divide `units` or `memory` < 1.
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
        """An empty memory: zeros."""
        weight = self.output.weight
        return weight.new_zeros(self.memory, batch, self.units), weight.new_zeros(1, batch, 1)

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, units) -> (B, T, units) and the state after the window; an empty state is an empty memory."""
        memory, filled = state or self.initial_state(len(x))
        steps = x.shape[1]
        known = torch.cat([memory.transpose(0, 1), x], dim=1)  # (B, memory + T, units)
        written = (filled.detach() * self.memory).round()
        y = x + self.drop(self._attend(self.norm1(known), steps, written.view(-1, 1)))
        y = y + self.drop(self.feed_forward(self.norm2(y)))
        share = (written + steps).clamp(max=self.memory) / self.memory
        # 0 * filled: part of the graph, as a state must be, with a gradient of zero.
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
