"""Predict the output of the previous stage from the data, so that a stage need not wait for its forward pass.

A model is a `Chain` from a window of data to the activation: (B, T) integers to (B, T, D), or (B, ...) to (B, D) or
(B, C, H, W). Its last layer starts at zero, so an untrained model predicts zeros.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import DivergedError
from dni.interfaces.input import InputInterface
from dni.losses import squared_distance
from dni.misuse import refuse_below, refuse_device, refuse_optimizer, require_target
from dni.models import Gru, ModelContext
from dni.recurrent import Chain, reset_streams
from dni.types import State


def symbol_inputs(symbols: int, features: int) -> Chain:
    """Build a table with a row of D = `features` numbers per symbol, for previous stages without state."""
    table = nn.Embedding(symbols, features)
    nn.init.zeros_(table.weight)
    return Chain(OrderedDict(table=table))


def sequence_inputs(symbols: int, features: int, hidden: int) -> Chain:
    """Build an embedding, a GRU of `hidden` units and a linear layer, for previous stages that carry state."""
    chain = Gru(units=hidden, layers=1).build(ModelContext(features, symbols))
    _zero(chain[-1])
    return chain


def flat_inputs(inputs: int, shape: Sequence[int], hidden: int = 0) -> Chain:
    """Build W2 relu(W1 x + b1) + b2, or W x + b without hidden units, of x flattened to `inputs` numbers."""
    named: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    if hidden:
        named |= {"first": nn.Linear(inputs, hidden), "relu": nn.ReLU()}
    named["last"] = nn.Linear(hidden or inputs, math.prod(shape))
    _zero(named["last"])
    return Chain(OrderedDict(named, unflatten=nn.Unflatten(1, tuple(shape))))


@dataclass
class PendingInput:
    """A window with a prediction, and the state of the model that entered it."""

    data: Tensor
    entered: State


@dataclass
class InputMeter:
    """Sums over updates."""

    updates: int = 0
    loss: float = 0.0
    variation: float = 0.0  #: squared distance of the targets to their mean row, as the loss: per row

    def means(self) -> dict[str, float | None]:
        """Return `input_loss`, and `input_r2` = 1 - loss / variation: 0 for the mean row, 1 if exact; None: unknown."""
        loss = self.loss / self.updates if self.updates else None
        return {"input_loss": loss, "input_r2": 1 - self.loss / self.variation if self.variation else None}


class SyntheticInputInterface(InputInterface):
    """A synthetic input now; one regression step of its model when the previous stage's output h_t arrives:

        h^_t = I(x_t),    min |I(x_t) - h_t|^2 (summed over features, averaged over rows)

    This is the complete unlock of Jaderberg et al. 2017, section 3.3. The previous stage computed h_t from a
    synthetic input of its own. As with synthetic gradients, targets are bootstrapped; they become true from the first
    stage on, which reads the data itself.

    Args:
        module: I.
        optimizer: updates the module's parameters.
        memory: number of windows that are kept; the oldest is dropped for a newer one.
        device: where the module lives.
    """

    def __init__(
        self,
        module: Chain,
        optimizer: torch.optim.Optimizer,
        *,
        memory: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        refuse_optimizer(module, optimizer)
        refuse_device(module, torch.device(device))
        refuse_below(1, memory=memory)
        self.module, self.optimizer, self.memory = module, optimizer, memory
        self.device = torch.device(device)
        self.recent = InputMeter()
        self._state: State | None = None
        self._pending: dict[int, PendingInput] = {}

    @torch.no_grad()
    def predict(self, step: int, data: Tensor, reset: Tensor | None = None) -> Tensor:
        x = data.to(self.device)
        state = self._state
        if state is None or any(s.shape[-2] != len(x) for s in state):
            state = self.module.initial_state(len(x))
        entered = reset_streams(state, None if reset is None else reset.to(self.device))
        value: Tensor
        value, self._state = self.module(x, entered)
        self._pending[step] = PendingInput(x, entered)
        while len(self._pending) > self.memory:
            del self._pending[min(self._pending)]
        return value

    def target(self, step: int, value: Tensor) -> None:
        """Fit the model to the input that has arrived. Raises DivergedError if the loss is not finite."""
        pending = self._pending.pop(step, None)
        if pending is None:
            return
        prediction, _ = self.module(pending.data, pending.entered)
        require_target(step, value, prediction)
        wanted = _rows(value.to(self.device))
        loss = squared_distance(_rows(prediction), wanted)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._measure(step, loss.item(), squared_distance(wanted.mean(0, keepdim=True), wanted).item())

    def take_recent(self) -> dict[str, float | None]:
        """Return `input_loss` and `input_r2` of the updates since the last call."""
        recent, self.recent = self.recent, InputMeter()
        return recent.means()

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": None if self._state is None else list(self._state),
            "asked": {step: {"data": a.data, "entered": list(a.entered)} for step, a in self._pending.items()},
            "recent": {**vars(self.recent)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._state = None if state["state"] is None else self._moved(state["state"])
        self._pending = {
            step: PendingInput(a["data"].to(self.device), self._moved(a["entered"]))
            for step, a in state["asked"].items()
        }
        self.recent = InputMeter(**state.get("recent", {}))

    def _moved(self, state: Sequence[Tensor]) -> State:
        return tuple(s.to(self.device) for s in state)

    def _measure(self, step: int, loss: float, variation: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of the inputs of step {step} is {loss}: lower their learning rate")
        self.recent.updates += 1
        self.recent.loss += loss
        self.recent.variation += variation


def _rows(value: Tensor) -> Tensor:
    """Return (rows, features): a row per time step of a sequence (B, T, D), else one per example."""
    return value.flatten(0, 1) if value.dim() == 3 else value.flatten(1)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
