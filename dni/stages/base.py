"""One stage of a split network: forward, backward, update."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dni.errors import UsageError
from dni.misuse import refuse_divisor, refuse_earlier, refuse_input, refuse_stage
from dni.named_tensors import Value, batch_of, map_tensors
from dni.recurrent import as_chain, pack, reset_streams, unpack
from dni.rng import OwnRandomness, is_stochastic
from dni.stages.clipping import Clipping, rates_of, step_at
from dni.stages.gradient_accumulator import GradientAccumulator
from dni.stages.graph import Gradients, Graph, Reply, backward_starts, fresh_input, gradient_of
from dni.types import State


class Stage:
    """A module with its optimizer and the state it carries from window to window.

    Call `forward`, `backward` and `update` in this order, once per step. Losses are sums over batch and time; `update`
    divides the parameter gradients. `StashingStage` allows later backward passes. Wrong arguments raise UsageError.

    Args:
        module: a `Chain`, an `nn.Sequential` (converted to a `Chain`), or any module from tensor to tensor.
        optimizer: updates the module's parameters.
        clip: largest norm of the stage's parameter gradients; None does not clip.
        accumulate: number of windows whose parameter gradients are summed for one optimizer step.
        schedule: schedule of the optimizer's rate; the training loop steps it once per training step.
        device: device of the module; inputs are moved there.
        seed: seed of the stage's own random state, used if the module has dropout.
        first: compute no gradient of the input (integer inputs never have one): there is no previous stage, or it
            learns from a local loss.
        chunk: run windows, (B, T, D) or integers (B, T), in chunks of so many time steps, whose activations are
            recomputed in `backward` (Chen et al. 2016). The module's result must not depend on where a window is cut.
            None keeps all activations.
        replicas: names of parameters that another stage owns, with optimizer and gradients (`set_replicas`).
    """

    #: True if the stage keeps windows until their gradients arrive, so that `backward` can use an earlier one.
    keeps_windows = False

    #: True if the targets for the previous stage come from `ready_replies`, some steps later, instead of `backward`.
    replies_later = False

    #: True while a backward pass must leave its graph for another one.
    _retains = False

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None = None,
        accumulate: int = 1,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        first: bool = False,
        chunk: int | None = None,
        replicas: Collection[str] = (),
    ) -> None:
        refuse_stage(module, optimizer, schedule, torch.device(device), replicas, accumulate=accumulate, chunk=chunk)
        self.module = as_chain(module)
        self.optimizer, self.clipping, self.first, self.chunk = optimizer, Clipping(clip), first, chunk
        self.accumulate, self.schedule = accumulate, schedule
        self.device, self.replicas = torch.device(device), replicas
        self.state: State | None = None
        self.gradient_norm: float | None = None  #: of the newest optimizer step, before clipping; None before the first
        self.randomness = OwnRandomness(seed, self.device) if is_stochastic(module) else None
        self._evaluation_state: State | None = None
        self._graph: Graph | None = None
        self._newest = 0  # step of the newest window
        self._accumulator = GradientAccumulator()
        self._rates: list[float] = []  # of the newest optimizer step
        self.moved = 0  #: number of optimizer steps since the stage was built

    def forward(self, activation: Value, reset: Tensor | None = None, step: int = 0) -> tuple[Value, Tensor | None]:
        """Run one window.

        `activation` is (B, T, D), (B, D), (B, C, H, W) or integers (B, T), or a dict of named tensors. `reset` (B,)
        bool marks streams whose sequence starts here. `step` names the window for a stage that keeps several. Return
        the output and the packed state (B, F) after the window, both detached; the state of a stateless stage is None.
        """
        refuse_input(activation)
        x, leaf = fresh_input(self._on_device(activation), gradient=not self.first)
        entering = tuple(s.detach().requires_grad_() for s in self._carried(self.state, batch_of(x)))
        entered = reset_streams(entering, None if reset is None else reset.to(self.device))
        with self.randomness.active() if self.randomness else nullcontext():
            output, leaving = self._run(x, entered)
        self._graph, self._newest = Graph(leaf, entering, output, leaving), step
        self.state = tuple(s.detach() for s in leaving)
        return map_tensors(Tensor.detach, output), pack(self.state) if self.state else None

    def keeps(self, step: int) -> bool:
        """Return whether a backward pass can go through the window of `step`."""
        return self._graph is not None and step == self._newest

    def backward(self, output: Value | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """Run one backward pass from dL/d output and dL/d state (B, F); None means zero.

        Add to the parameter gradients, and return the gradients of the input and of the entering state. Raise
        UsageError without a forward pass before, or for a gradient that does not fit its output.
        """
        graph, self._graph = self._graph, None
        if graph is None:
            raise UsageError(f"step {step}: backward comes once after each forward")
        if step != self._newest and not self.keeps_windows:
            refuse_earlier(step, self._newest)
        ends, gradients = backward_starts(graph.output, output, self.device)
        self._backward(graph, ends, gradients, None if state is None else unpack(state.to(self.device), graph.leaving))
        entering = tuple(gradient_of(s) for s in graph.entering)
        activation = None if graph.input is None else map_tensors(gradient_of, graph.input)
        return Gradients(activation, pack(entering) if entering else None)

    def on_target(self, step: int, target: Value) -> None:
        """Take the target of a step's output as it arrives from the next stage. Ignored unless a subclass uses it."""

    def ready_replies(self) -> list[Reply]:
        """Return the targets for the previous stage that can be computed now, between two windows."""
        return []

    def recompute(self, activation: Value, entering: State, reset: Tensor) -> tuple[Value, State]:
        """Run a window with the current parameters, from given leaves. Return output and leaving state, with graph.

        The carried state stays unchanged, the input gets no gradient, and dropout draws new masks.
        """
        # a copy: the first layer may modify its input in place
        x = map_tensors(lambda tensor: tensor.detach().to(self.device, copy=True), activation)
        with self.randomness.active() if self.randomness else nullcontext():
            return self.module(x, reset_streams(entering, reset.to(self.device)))  # type: ignore[no-any-return]

    def update(self, divisor: float = 1.0, *, move: bool = True, factor: float = 1.0) -> None:
        """Accumulate the window's parameter gradients, and take an optimizer step every `accumulate` windows.

        The step divides the summed gradients by the sum of the divisors, clips them, and uses `factor` times the
        learning rates. Without `move`, drop the window's gradients. Raise DivergedError if the norm of the gradients is
        not finite, and UsageError before the backward pass.
        """
        if self._graph is not None:
            raise UsageError("update comes after backward: the newest window has no gradients yet")
        refuse_divisor(divisor)
        if move:
            self._accumulator.add(self.module, divisor)
        if self._accumulator.windows == self.accumulate:
            self._step(factor)
        else:
            self.optimizer.zero_grad()

    def finish_step(self, norm: float) -> None:
        """Take the optimizer step whose gradients `clipping` has scaled; `norm`: what theirs was before."""
        self.gradient_norm = norm
        if norm:  # momentum would change the weights without any gradient
            step_at(self.optimizer, self._rates)
            self.moved += 1
        self.optimizer.zero_grad()

    def set_replicas(self, values: Mapping[str, Tensor]) -> None:
        """Copy the owners' values into the replicas, by their names in this stage."""
        with torch.no_grad():
            for name, value in values.items():
                self.module.get_parameter(name).copy_(value)

    @torch.no_grad()
    def evaluate(self, activation: Value, reset: Tensor | None = None) -> Value:
        """Run one validation window in evaluation mode, with its own carried state, and return the output."""
        x = self._on_device(activation)
        state = self._carried(self._evaluation_state, batch_of(x))
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            output, after = self.module(x, reset_streams(state, None if reset is None else reset.to(self.device)))
        finally:  # not module.train(): layers that were in evaluation mode before stay in it
            for part, training in modes:
                part.training = training
        self._evaluation_state = after
        return output

    def state_dict(self) -> dict[str, Any]:
        """Return layers, parameters, optimizer, carried and random state and accumulated gradients."""
        return {
            "layers": [*self.module._modules],
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": None if self.state is None else list(self.state),
            "random": self.randomness.states if self.randomness else {},
            "gathered": vars(self._accumulator),
            "schedule": self.schedule and self.schedule.state_dict(),
            "gradient_norm": self.gradient_norm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.gradient_norm = state.get("gradient_norm")  # checkpoints of older versions have none
        self.state = None if state["state"] is None else tuple(s.to(self.device) for s in state["state"])
        if self.randomness:
            self.randomness.states = state["random"]
        self._accumulator = GradientAccumulator.restored(self.device, **state["gathered"])

    def _backward(self, graph: Graph, ends: list[Tensor], gradients: list[Tensor], future: State | None) -> None:
        """Go back from `ends` and their gradients, and from the leaving state; `future` is its gradient."""
        if future is not None:
            ends, gradients = [*ends, *graph.leaving], [*gradients, *future]
        if ends:
            with self._recomputing():
                torch.autograd.backward(ends, gradients, retain_graph=self._retains)

    def _step(self, factor: float) -> None:
        accumulator, self._accumulator = self._accumulator, GradientAccumulator()
        gradients = accumulator.write_gradients(self.module)
        if gradients:
            torch._foreach_div_(gradients, accumulator.divisor)
            self._rates = rates_of(self.optimizer, factor)  # the step may come later
            norm = self.clipping.clip(list(self.module.parameters()))
            if norm is not None:
                self.finish_step(norm)

    def _on_device(self, value: Value) -> Value:
        return map_tensors(lambda tensor: tensor.to(self.device), value)

    def _run(self, x: Value, state: State) -> tuple[Value, State]:
        if self.chunk is None:
            return self._call(x, state)
        if not isinstance(x, Tensor):
            raise UsageError("chunk cuts one tensor along time: with named tensors use chunk=None")
        outputs = []
        for part in torch.split(x, self.chunk, dim=1):
            output, state = checkpoint(
                self._call, part, state, use_reentrant=False, preserve_rng_state=self.randomness is not None
            )
            outputs.append(output)
        return torch.cat(outputs, dim=1), state

    def _call(self, x: Value, state: State) -> tuple[Value, State]:
        return self.module(x, state)  # type: ignore[no-any-return]

    def _recomputing(self) -> AbstractContextManager[None]:
        """Hold the process's random state while chunks are recomputed with the same dropout masks."""
        return self.randomness.active() if self.randomness and self.chunk else nullcontext()

    def _carried(self, state: State | None, batch: int) -> State:
        fits = state is not None and all(s.shape[-2] == batch for s in state)
        return state if state is not None and fits else self.module.initial_state(batch)
