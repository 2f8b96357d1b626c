"""Compare the model in stages, with the true gradient at every cut, with the same model in one piece."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from dni.data.base import Data
from dni.data.window import Window, split_labels
from dni.errors import ConfigError
from dni.named_tensors import Value
from dni.recurrent import Chain, reset_streams
from dni.rng import without_dropout
from dni.stages.base import Stage
from dni.types import State
from workers.build.own_code import as_config_error
from workers.checks.verdict import Verdict, parts_of
from workers.config.settings import Config

#: Windows, the largest relative difference, and the rate of the plain gradient descent in between.
WINDOWS, MOST, RATE = 3, 1e-5, 0.05


def check_split(config: Config, data: Data) -> Verdict:
    """Train both on the same windows and compare loss and gradients of each.

    Dropout and clipping are off. Raises ConfigError for one stage, and for a model that cannot run.
    """
    if config.parts == 1:
        raise ConfigError("stages=1 cuts nothing: set stages=2 or more")
    with as_config_error(f"model={config.model.name} cannot be checked"):
        pair = _Pair(config)
        worst = 0.0
        for number in range(1, WINDOWS + 1):
            fault, difference = pair.step(data.train.next())
            worst = max(worst, difference)
            if fault:
                return Verdict(False, f"window {number}: {fault}")
        return Verdict(True, f"{len(pair.chains)} parts equal one piece: largest relative difference {worst:.1e}")


class _Pair:
    """The model in stages and in one piece, with equal weights."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.chains = [parts_of(config)[part] for part in range(config.parts)]  # as processes do: nothing is shared
        self.whole = Chain(OrderedDict(layer for chain in parts_of(config) for layer in chain.named_children()))
        self.state: State = ()
        self.stages = [
            Stage(chain, torch.optim.SGD([*chain.parameters()], lr=RATE), first=index == 0)
            for index, chain in enumerate(self.chains)
        ]
        self.optimizer = torch.optim.SGD(self.whole.parameters(), lr=RATE)

    def step(self, window: Window) -> tuple[str | None, float]:
        """Take one step of both; return what differs, if anything, and the largest relative difference."""
        labels = split_labels(window.inputs, window.labels)[0]
        whole = self._in_one(window, labels)
        try:
            split = self._in_stages(window, labels)
        except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
            first = next(iter(str(error).splitlines()), "")
            return f"it runs in one piece, and not in stages: {type(error).__name__}: {first}; {_ADVICE}", 0.0
        found = [("the loss", abs(split - whole) / max(abs(whole), 1e-6))]
        expected = dict(self.whole.named_parameters())
        for index, chain in enumerate(self.chains):
            for name, parameter in chain.named_parameters():
                found.append((f"the gradient of {name} (stage {index})", _difference(parameter, expected[name])))
        for stage in self.stages:
            stage.update(max(1, self.config.loss.count(labels)))
        self._update(max(1, self.config.loss.count(labels)))
        name, worst = max(found, key=lambda each: each[1])
        fault = f"{name} differs from that of the unsplit model by {worst:.1e} of its size; {_ADVICE}"
        return None if worst <= MOST else fault, worst

    def _in_stages(self, window: Window, labels: Tensor) -> float:
        value: Value = window.inputs
        for stage in self.stages:
            with without_dropout(stage.module):
                value, _ = stage.forward(value, window.reset)
        loss, start = self.config.loss.gradient(value, labels)
        gradient: Value | None = start
        for stage in reversed(self.stages):
            with without_dropout(stage.module):
                gradient = stage.backward(gradient).activation
        return loss.item()

    def _in_one(self, window: Window, labels: Tensor) -> float:
        state = self.state or self.whole.initial_state(len(window.reset))
        with without_dropout(self.whole):
            output, after = self.whole(window.inputs, reset_streams(tuple(state), window.reset))
            loss = self.config.loss.summed(output, labels)
            torch.autograd.backward(loss)
        self.state = tuple(each.detach() for each in after)
        return loss.item()

    def _update(self, labels: int) -> None:
        for parameter in self.whole.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(labels)
        self.optimizer.step()
        self.optimizer.zero_grad()


_ADVICE = "does a layer pass something on other than by its output, or keep something from step to step?"


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference of two gradients, relative to the larger; a missing one is zero."""
    a, b = (torch.zeros_like(each) if each.grad is None else each.grad for each in (one, other))
    size = max(a.norm().item(), b.norm().item())
    return (a - b).norm().item() / size if size > 1e-12 else 0.0
