"""What each layer of a model costs on this machine: forward, backward and update, and what it keeps and passes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.loss_function import LossFunction
from dni.recurrent import Chain
from dni.stages.graph import gradient_of
from dni.stages.partition import named_layers
from dni.types import State
from workers.build.device import device_of
from workers.build.example import example as zero_example
from workers.build.model import build_whole
from workers.build.own_code import as_config_error
from workers.config.settings import Config
from workers.planning.saved import SavedBytes
from workers.system.malloc import keep_memory

#: Passes that warm up, and passes that are measured: FEWEST, or as many as take SECONDS, at most MOST.
WARM, FEWEST, MOST, SECONDS = 2, 5, 50, 1.0


@dataclass(frozen=True)
class LayerCost:
    """One layer, for a whole batch of one window."""

    name: str
    forward_s: float
    backward_s: float  #: of the last layer with the loss; with time=checkpointed its forward pass again
    update_s: float  #: its share of the optimizer's step, clipping included
    parameter_bytes: int
    activation_bytes: int  #: kept for the backward pass, parameters not counted
    output_bytes: int  #: of the tensor that would cross a cut after it

    @property
    def seconds(self) -> float:
        """Of one training step."""
        return self.forward_s + self.backward_s + self.update_s


def measure_layers(config: Config, batch: int | None = None) -> list[LayerCost]:
    """The median over several warm passes of every layer, on the device and with the threads of the first stage.

    The settings must be resolved with the shapes of the data; inputs and labels are made up. `batch`: examples of a
    pass, such as of a microbatch; default data.batch. Torch's random state and threads are afterwards what they were.
    Raises ConfigError for a model that cannot be built or run.
    """
    with as_in_a_stage(config), as_config_error(f"model={config.model.name} cannot be measured"):
        bench = _Bench(config, batch or config.data.batch)
        several_times(bench.step, SECONDS, lambda: bench.passes.clear())
        return bench.costs()


def several_times(step: Callable[[], None], seconds: float, when_warm: Callable[[], None]) -> None:
    """A few steps to warm up, then `when_warm`, then those to measure: FEWEST, or more in so many seconds."""
    for _ in range(WARM):
        step()
    when_warm()
    until, done = time.perf_counter() + seconds, 0
    while done < FEWEST or (done < MOST and time.perf_counter() < until):
        step()
        done += 1


@contextmanager
def as_in_a_stage(config: Config) -> Iterator[None]:
    """Torch's threads and allocator as in a stage; random state and threads are afterwards what they were."""
    keep_memory()
    device, before = device_of(config, 0), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.set_num_threads(config.torch_threads)
            yield
    finally:
        torch.set_num_threads(before)


class _Layer:
    """One layer with an optimizer of its own, and what its last forward pass has left."""

    def __init__(self, name: str, module: nn.Module, config: Config, device: torch.device, *, first: bool) -> None:
        self.name, self.chain, self.first = name, Chain(module).to(device), first
        self.parameters = [parameter for parameter in self.chain.parameters() if parameter.requires_grad]
        self.optimizer = config.optimizer.build(self.parameters) if self.parameters else None
        self.largest = config.optimizer.clip or math.inf
        self.activation_bytes = 0

    def enter(self, value: Tensor) -> None:
        """Take an input (B, ...), at the start of a sequence."""
        self.leaf = value.detach().requires_grad_(value.is_floating_point() and not self.first)
        # neither a leaf nor its memory: a layer may work in place
        self.input = self.leaf.clone() if value.is_floating_point() else self.leaf
        self.state: State = tuple(s.detach().requires_grad_() for s in self.chain.initial_state(len(value)))

    def forward(self) -> Tensor:
        """The output (B, ...), detached."""
        self.output, _ = self.chain(self.input, self.state)
        if not isinstance(self.output, Tensor):
            raise UsageError(
                f"{self.name} returns the tensors {', '.join(self.output)}, and only layers that pass on one tensor "
                "can be measured: name the cuts with model.split_points=[...]"
            )
        return self.output.detach()

    def backward(self, gradient: Tensor) -> Tensor | None:
        """dL/d output -> dL/d input; None for an input that has no gradient."""
        if self.output.requires_grad:
            torch.autograd.backward([self.output], [gradient])
        return gradient_of(self.leaf) if self.leaf.requires_grad else None

    def update(self) -> None:
        """Clip, one step of the optimizer, and clear the gradients."""
        if self.optimizer is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.largest).item()
            self.optimizer.step()
            self.optimizer.zero_grad()


class _Bench:
    """All layers on one device, run as one network whose layers are timed one by one."""

    def __init__(self, config: Config, batch: int) -> None:
        whole, self.device = build_whole(config).train(), device_of(config, 0)
        layers = named_layers(whole)
        self.layers = [_Layer(n, m, config, self.device, first=not i) for i, (n, m) in enumerate(layers)]
        self.input, self.config = example(config, batch).to(self.device), config
        self.loss: LossFunction = config.loss
        self._now = clock_of(config, self.device)
        self.labels: Tensor | None = None
        self.passes: list[list[tuple[float, float, float]]] = []  # of each: forward, backward, update by layer
        self._count_saved()

    def step(self) -> None:
        """One training step."""
        forward, value = [], self.input
        for layer in self.layers:
            layer.enter(value)
            start = self._now()
            value = layer.forward()
            forward.append(self._now() - start)
        start = self._now()
        _, gradient = self.loss.gradient(value, self._labels(value))
        backward = [self._now() - start]
        for layer in reversed(self.layers):
            start = self._now()
            arrived = layer.backward(gradient)
            backward[-1] += self._now() - start
            backward.append(0.0)
            gradient = gradient if arrived is None else arrived
        update = []
        for layer in self.layers:
            start = self._now()
            layer.update()
            update.append(self._now() - start)
        self.passes.append(list(zip(forward, reversed(backward[:-1]), update, strict=True)))

    def costs(self) -> list[LayerCost]:
        """The medians."""
        again = self.config.chunk is not None  # a chunk's activations are computed again
        share = min(1.0, (self.config.chunk or self.config.window) / self.config.window)
        found = []
        for layer, passes in zip(self.layers, zip(*self.passes, strict=True), strict=True):
            forward, backward, update = (median(each) for each in zip(*passes, strict=True))
            own = sum(p.numel() * p.element_size() for p in layer.chain.parameters())
            kept = round(layer.activation_bytes * share)
            passed = layer.output.numel() * layer.output.element_size()
            found.append(LayerCost(layer.name, forward, backward + forward * again, update, own, kept, passed))
        return found

    def _count_saved(self) -> None:
        """One pass in which the tensors are counted that wait for the backward pass; it is the first to fail, too."""
        value = self.input
        for layer in self.layers:
            what = f"model={self.config.model.name}: {layer.name} cannot take an input of shape {[*value.shape]}"
            with as_config_error(what), SavedBytes(layer.chain) as saved:
                layer.enter(value)
                value = layer.forward()
            layer.activation_bytes = saved.total

    def _labels(self, output: Tensor) -> Tensor:
        if self.labels is None:
            self.labels = example_labels(self.config, *output.shape[:-1]).to(self.device)
        return self.labels


def clock_of(config: Config, device: torch.device) -> Callable[[], float]:
    """Seconds that pass for the work of this process: with one thread those of its CPU time, so that other processes
    that want the same core do not count; else those of the wall, once the device has done what it was asked for."""

    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    if device.type == "cuda":
        return synchronized
    return time.process_time if config.torch_threads == 1 else time.perf_counter


def example(config: Config, batch: int) -> Tensor:
    """Return a made-up input: (B, T) symbols, (B, T, D) vectors, (B, D) or (B, C, H, W)."""
    zeros = zero_example(config, batch, config.window)
    if not isinstance(zeros, Tensor):
        raise UsageError(
            f"data={config.data.name} gives the inputs {', '.join(zeros)}, and only models of one tensor can be "
            "measured: name the cuts with model.split_points=[...]"
        )
    return (
        torch.randn(zeros.shape)
        if zeros.is_floating_point()
        else torch.randint_like(zeros, config.model.input_symbols or 1)
    )


def example_labels(config: Config, *rows: int) -> Tensor:
    """Return made-up labels: classes of the shape `rows`, or for regression numbers (*rows, O)."""
    symbols = config.model.symbols or 1
    return torch.randn(*rows, symbols) if config.data.numbers else torch.randint(symbols, rows)
