"""One stage of a network that was cut in depth: forward, backward, update."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dni.errors import DivergedError, UsageError
from dni.misuse import refuse_divisor, refuse_earlier, refuse_gradient, refuse_input, refuse_stage
from dni.recurrent import as_chain, pack, reset_streams, unpack
from dni.rng import OwnRandomness, is_stochastic
from dni.stages.gradient_accumulator import GradientAccumulator
from dni.stages.graph import Gradients, Graph, Reply, gradient_of
from dni.types import State


class Stage:
    """A module with its optimizer, and the state it carries from window to window.

    `forward`, `backward` and `update` are called in this order, once per step. Losses are sums over batch and time;
    only the parameter gradients are divided, in `update`. (`dni.stages.weight_stashing` has a stage that goes back
    later.) What cannot work raises UsageError.

    Args:
        module: a `Chain`, an `nn.Sequential` (made one), or any module from tensor to tensor.
        optimizer: updates the module's parameters.
        clip: largest norm of the stage's parameter gradients; None does not clip.
        accumulate: windows whose parameter gradients make one optimizer step.
        schedule: of the optimizer's rate; whoever trains steps it once per training step.
        device: where the module lives; what comes in is moved there.
        seed: of the stage's own random state, used if the module has dropout.
        first: no gradient of the input is wanted (integer inputs never have one): there is no stage before, or it
            learns from a loss of its own.
        chunk: steps; the windows, then (B, T, D) or integers (B, T), are run in chunks of so many steps, whose
            activations are not kept but computed again in `backward` (Chen et al. 2016). The module must not mind
            where a window is cut. None keeps all activations.
    """

    #: Whether windows wait for their gradients, so that `backward` may go through an earlier one.
    keeps_windows = False

    #: Whether the previous stage gets its targets from `ready_replies`, steps later, and not from `backward`.
    replies_later = False

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
    ) -> None:
        refuse_stage(module, optimizer, schedule, torch.device(device), accumulate=accumulate, chunk=chunk)
        self.module = as_chain(module)
        self.optimizer, self.clip, self.first, self.chunk = optimizer, clip, first, chunk
        self.accumulate, self.schedule = accumulate, schedule
        self.device = torch.device(device)
        self.state: State | None = None
        self.gradient_norm: float | None = None  #: of the newest optimizer step, before clipping; None: none was taken
        self.randomness = OwnRandomness(seed, self.device) if is_stochastic(module) else None
        self._evaluation_state: State | None = None
        self._graph: Graph | None = None
        self._newest = 0  # step of the window that was run last
        self._gathered = GradientAccumulator()

    def forward(self, activation: Tensor, reset: Tensor | None = None, step: int = 0) -> tuple[Tensor, Tensor | None]:
        """Run one window.

        `activation` is (B, T, D), (B, D), (B, C, H, W) or integers (B, T); `reset` (B,) bool marks streams whose
        sequence starts here; `step` names the window for a stage that keeps several. Returns the output and the packed
        state after the window (B, F), both detached; None for a stateless stage.
        """
        refuse_input(activation)
        x, leaf = self._fresh_input(activation.to(self.device))
        entering = tuple(s.detach().requires_grad_() for s in self._carried(self.state, len(x)))
        entered = reset_streams(entering, None if reset is None else reset.to(self.device))
        with self.randomness.active() if self.randomness else nullcontext():
            output, leaving = self._run(x, entered)
        self._graph, self._newest = Graph(leaf, entering, output, leaving), step
        self.state = tuple(s.detach() for s in leaving)
        return output.detach(), pack(self.state) if self.state else None

    def backward(self, output: Tensor | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """One backward pass from dL/d output and dL/d state (B, F), None standing for zero.

        Adds to the parameter gradients and returns the gradients of what came in. Raises UsageError if there was no
        forward pass, or if the gradient is not that of its output.
        """
        graph, self._graph = self._graph, None
        if graph is None:
            raise UsageError(f"step {step}: backward comes once after each forward")
        if step != self._newest and not self.keeps_windows:
            refuse_earlier(step, self._newest)
        if output is not None:
            refuse_gradient(output, graph.output)
        ends: list[Tensor] = [] if output is None else [graph.output]
        gradients: list[Tensor] = [] if output is None else [output.to(self.device)]
        if state is not None:
            ends += graph.leaving
            gradients += unpack(state.to(self.device), graph.leaving)
        if ends:
            with self._recomputing():
                torch.autograd.backward(ends, gradients)
        entering = tuple(gradient_of(s) for s in graph.entering)
        arrived = None if graph.input is None else gradient_of(graph.input)
        return Gradients(arrived, pack(entering) if entering else None)

    def on_target(self, step: int, target: Tensor) -> None:
        """Hear of the target of the output of a step, which has just come from the next stage."""

    def ready_replies(self) -> list[Reply]:
        """The targets for the previous stage that can be made now, between two windows."""
        return []

    def recompute(self, activation: Tensor, entering: State, reset: Tensor) -> tuple[Tensor, State]:
        """Run a window again with today's parameters, from given leaves. Returns output and leaving state, with graph.

        Nothing is carried on, and no gradient of the input is wanted. Dropout draws anew.
        """
        x = activation.detach().to(self.device, copy=True)  # a first layer may work in place
        with self.randomness.active() if self.randomness else nullcontext():
            return self.module(x, reset_streams(entering, reset.to(self.device)))  # type: ignore[no-any-return]

    def update(self, divisor: float = 1.0, *, move: bool = True, factor: float = 1.0) -> None:
        """Gather the window's parameter gradients; once there are `accumulate` windows of them, divide their sums by
        the sum of their divisors, clip, and take one optimizer step, at `factor` times its learning rates. A window
        that may not `move` counts for nothing.

        Raises DivergedError if the norm of what was gathered is not finite, UsageError before the backward pass.
        """
        if self._graph is not None:
            raise UsageError("update comes after backward: the window that was run last has no gradients yet")
        refuse_divisor(divisor)
        if move:
            self._gathered.add(self.module, divisor)
        if self._gathered.windows == self.accumulate:
            self._step(factor)
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, activation: Tensor, reset: Tensor | None = None) -> Tensor:
        """Run one validation window in evaluation mode, with a carried state of its own, and return the output."""
        x = activation.to(self.device)
        state = self._carried(self._evaluation_state, len(x))
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            output, after = self.module(x, reset_streams(state, None if reset is None else reset.to(self.device)))
        finally:  # layers that are kept in evaluation mode stay in it
            for part, training in modes:
                part.training = training
        self._evaluation_state = after
        return output  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """Its layers, parameters, optimizer, carried and random state, and gathered gradients, between two windows."""
        return {
            "layers": [*self.module._modules],
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": None if self.state is None else list(self.state),
            "random": self.randomness.states if self.randomness else {},
            "gathered": vars(self._gathered),
            "schedule": self.schedule and self.schedule.state_dict(),
            "gradient_norm": self.gradient_norm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.gradient_norm = state.get("gradient_norm")  # checkpoints of older versions have none
        self.state = None if state["state"] is None else tuple(s.to(self.device) for s in state["state"])
        if self.randomness:
            self.randomness.states = state["random"]
        self._gathered = GradientAccumulator(**state["gathered"])
        self._gathered.sums = {name: total.to(self.device, copy=True) for name, total in self._gathered.sums.items()}

    def _step(self, factor: float) -> None:
        gathered, self._gathered = self._gathered, GradientAccumulator()
        gradients = gathered.write_gradients(self.module)
        if gradients:
            torch._foreach_div_(gradients, gathered.divisor)
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.clip or math.inf).item()
            if not math.isfinite(norm):
                raise DivergedError(f"the gradient norm is {norm}: lower the learning rates, or clip gradients")
            self.gradient_norm = norm
            if norm:  # windows without gradient are no reason to move: momentum would
                rates = [group["lr"] for group in self.optimizer.param_groups]
                self._set_rates([rate * factor for rate in rates])
                self.optimizer.step()
                self._set_rates(rates)

    def _set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _fresh_input(self, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the module is run on, and the leaf that its gradient is wanted of."""
        if not activation.is_floating_point():
            return activation.detach(), None
        leaf = activation.detach().requires_grad_(not self.first)
        # neither a leaf nor the sender's memory: a first layer may work in place
        return leaf.clone(), None if self.first else leaf

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.chunk is None:
            return self._call(x, state)
        outputs = []
        for part in torch.split(x, self.chunk, dim=1):
            output, state = checkpoint(
                self._call, part, state, use_reentrant=False, preserve_rng_state=self.randomness is not None
            )
            outputs.append(output)
        return torch.cat(outputs, dim=1), state

    def _call(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.module(x, state)  # type: ignore[no-any-return]

    def _recomputing(self) -> AbstractContextManager[None]:
        """Chunks that are computed again draw as they drew, from the process's random state: others must wait."""
        return self.randomness.active() if self.randomness and self.chunk else nullcontext()

    def _carried(self, state: State | None, batch: int) -> State:
        fits = state is not None and all(s.shape[-2] == batch for s in state)
        return state if state is not None and fits else self.module.initial_state(batch)
