"""What the updates at the cuts of a stage cost: of a predictor or a local head in depth, of a predictor in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from dni.interfaces.base import Interface
from dni.methods.base import DepthMethod
from dni.methods.local import Local
from dni.methods.synthetic import Synthetic
from dni.named_tensors import UNNAMED
from workers.build.device import device_of
from workers.build.interfaces import depth_contexts, refuse_large, time_context
from workers.build.model import build_chains
from workers.build.own_code import as_config_error
from workers.config.settings import Config
from workers.planning.measure import as_in_a_stage, clock_of, example_labels, several_times

#: How long one cut is measured.
SECONDS = 0.2


class CutCosts:
    """Seconds of one answer and one update at the cuts of a network, each measured once: cuts may be asked for again.

    The settings must be resolved, and be cut (`model.split_points`). Raises ConfigError for cuts that cannot be made.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], float] = {}

    def in_depth(self, config: Config, name: str) -> list[float]:
        """Of "synthetic" or "local", by stage, (K,); the last stage has none."""
        method = _method(config, name)
        config = replace(config, depth=method)
        refuse_large(config)
        return [*(self._once(name, config, index, _depth_cut) for index in range(config.stages - 1)), 0.0]

    def in_time(self, config: Config) -> list[float]:
        """Of the method in time, by stage, (K,); 0 where no gradient is asked for."""
        if not config.time.answers:
            return [0.0] * config.stages
        return [self._once("time", config, index, _time_cut) for index in range(config.stages)]

    def _once(self, name: str, config: Config, index: int, make: Callable[[Config, int], _Cut | None]) -> float:
        with as_in_a_stage(config), as_config_error(f"the {name} cut of stage {index} cannot be measured"):
            layers = ", ".join(build_chains(config)[index]._modules)
            known = layers if name == "time" else layers.rpartition(", ")[2]  # a cut in depth is behind one layer
            if (name, known) not in self._known:
                cut = make(config, index)
                self._known[name, known] = 0.0 if cut is None else cut.seconds()
            return self._known[name, known]


class _Cut:
    """An interface with made-up values of a batch."""

    def __init__(
        self, config: Config, interface: Interface, value: Tensor, labels: Tensor, device: torch.device
    ) -> None:
        self.interface, self._now = interface, clock_of(config, device)
        self.value, self.labels = value.to(device), labels.to(device)
        self.done = torch.zeros(len(value), dtype=torch.bool, device=device)
        self.taken: list[float] = []
        self.step = 0

    def seconds(self) -> float:
        """The median of an answer and the update that its target makes."""
        several_times(self._step, SECONDS, lambda: self.taken.clear())
        return median(self.taken)

    def _step(self) -> None:
        self.step, start = self.step + 1, self._now()
        gradient = self.interface.gradient(self.step, self.value, self.labels, self.done)
        if not self.interface.learns_when_asked and gradient is not None:
            self.interface.target(self.step, gradient)
        self.taken.append(self._now() - start)


def _method(config: Config, name: str) -> DepthMethod:
    """With the settings' own values where it is the method that they name."""
    if config.depth.name == name:
        return config.depth
    kinds: dict[str, type[DepthMethod]] = {"synthetic": Synthetic, "local": Local}
    return kinds[name](max_in_flight=config.depth.max_in_flight)


def _depth_cut(config: Config, index: int) -> _Cut:
    device = device_of(config, index)
    context = depth_contexts(config, index, device)[UNNAMED]
    steps = (config.window,) if config.data.sequences else ()
    labels = example_labels(config, config.data.batch, *steps)
    value = torch.randn(config.data.batch, *steps, *context.shape)
    return _Cut(config, config.depth.interface(context), value, labels, device)


def _time_cut(config: Config, index: int) -> _Cut | None:
    """None: the stage carries no state."""
    device, chain = device_of(config, index), build_chains(config)[index]
    if not chain.initial_state(1):
        return None
    context = time_context(config, index, chain.to(device), device)
    symbols = (context.inputs if config.history else context.classes) or 1
    labels = torch.randint(symbols, (config.data.batch, config.history or config.future_labels))
    return _Cut(config, config.time.interface(context), torch.randn(config.data.batch, *context.shape), labels, device)
