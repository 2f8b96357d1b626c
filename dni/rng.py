"""A random state for each stage. Torch itself has one per process (and one per GPU)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

_PROCESS_STATE = threading.Lock()


def happens(probability: float, *key: int) -> bool:
    """Decide whether an event of this probability happens: a pure function of the key, of non-negative numbers."""
    return probability >= 1 or bool(np.random.default_rng(key).random() < probability)


@contextmanager
def drawing_from(*key: int) -> Iterator[None]:
    """Let torch (on the CPU), NumPy and Python draw numbers that are a function of the key, and restore their states.

    Meanwhile other threads that draw must wait.
    """
    seed = int(np.random.default_rng(key).integers(2**32))
    with _PROCESS_STATE:
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])


class OwnRandomness:
    """A random state of a stage's own. While `active`, torch draws from it; other threads that draw must wait."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.states: dict[str, Tensor] = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if device.type == "cuda":
            self.states["cuda"] = torch.Generator(device).manual_seed(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        with _PROCESS_STATE:
            process = self._get()
            self._set(self.states)
            try:
                yield
            finally:
                self.states = self._get()
                self._set(process)

    def _get(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if "cuda" in self.states:
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Run the module in evaluation mode, without random draws, so that gradients still flow; restore it afterwards.

    Torch's recurrent layers stay in training mode with dropout 0, because cuDNN supports their backward pass in that
    mode only.
    """
    modes = [(m, m.training) for m in module.modules()]
    rates = [(m, m.dropout) for m in module.modules() if isinstance(m, nn.RNNBase)]
    module.eval()
    for rnn, _ in rates:
        rnn.training, rnn.dropout = True, 0.0
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
        for rnn, rate in rates:
            rnn.dropout = rate


def is_stochastic(module: nn.Module) -> bool:
    """Return whether a forward pass in training mode draws random numbers (dropout of any kind)."""
    return any(isinstance(m, _DropoutNd) or getattr(m, "dropout", 0) for m in module.modules())


def remove_dropout(module: nn.Module) -> None:
    """Set the probabilities of all dropout inside to zero, so that training draws no random numbers."""
    for each in module.modules():
        if isinstance(each, _DropoutNd):
            each.p = 0.0
        elif isinstance(getattr(each, "dropout", None), float):  # of torch's recurrent layers and attention
            each.dropout = 0.0  # type: ignore[assignment]
