"""A stage whose windows wait for their gradients, with what it takes to go back through them later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.named_tensors import Value
from dni.stages.graph import Gradients, Graph
from dni.stages.recompute import RecomputingStage, SavedWindow

#: The weights of a forward pass, by the parameter's name: leaves of its graph.
Weights = dict[str, Tensor]


@dataclass
class StashedWindow(SavedWindow):
    """A window that was run and waits for its gradient."""

    weights: Weights  #: empty: today's, whenever that is
    graph: Graph | None = None  #: None: the window is run again to go back through it


class StashingStage(RecomputingStage):
    """Goes back through a window when its gradient comes, and applies what it finds to today's weights:

        w_{t+1} = w_t - rate * dL_s/dw (w_s),    s <= t,    with stash (PipeDream, Narayanan et al. 2019);
        w_{t+1} = w_t - rate * dL_s/dw (w_t),    without: the window's input and state are run again with today's.

    The gradient of the output is that of step s either way. With stash, one copy of the weights is kept for every
    optimizer step between the oldest window and today; with `accumulate` not less than the windows that wait, these are
    two copies at most (as in PipeDream-2BW, Narayanan et al. 2021). Without, none is, nor any activation but the input.

    Args:
        stash: keep the weights and the activations of the forward pass.
        settings: those of `Stage`.
    """

    keeps_windows = True

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, *, stash: bool = True, **settings: Any
    ) -> None:
        super().__init__(module, optimizer, **settings)
        self.stash = stash
        self._held: dict[int, StashedWindow] = {}
        self._today: Weights = {}  # a copy of the parameters; empty: there is none yet

    def forward(self, activation: Value, reset: Tensor | None = None, step: int = 0) -> tuple[Value, Tensor | None]:
        """As `Stage.forward`; the window is kept under its step."""
        held = StashedWindow(**self._remember(activation, reset), weights=self._copy())
        self._instead = held.weights
        answer = super().forward(activation, reset, step)
        self._instead = {}
        held.graph, self._graph = self._graph if self.stash else None, None
        self._held[step] = held
        return answer

    def backward(self, output: Value | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """As `Stage.backward`, through the window of `step`; windows before it are given up."""
        if step not in self._held:
            raise UsageError(f"no window of step {step} waits for its gradient: those that do are {sorted(self._held)}")
        held = self._held[step]
        self._held = {later: kept for later, kept in self._held.items() if later > step}
        self._instead = held.weights
        if held.graph is None:
            self._run_again(held)
        else:
            self._graph = held.graph
        gradients = super().backward(output, state, step)
        self._instead = {}
        for name, parameter in self.module.named_parameters() if held.weights else ():
            parameter.grad, held.weights[name].grad = held.weights[name].grad, None
        return gradients

    @property
    def versions(self) -> int:
        """Copies of the weights that windows wait with."""
        return len({id(held.weights) for held in self._held.values() if held.weights})

    def state_dict(self) -> dict[str, Any]:
        versions = {id(held.weights): held.weights for held in self._held.values()}
        places = {key: place for place, key in enumerate(versions)}
        held = {
            step: {**vars(kept), "weights": places[id(kept.weights)], "graph": None}
            for step, kept in self._held.items()
        }
        return {**super().state_dict(), "held": held, "versions": list(versions.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._today = {}
        versions = [self._leaves(version) for version in state["versions"]]
        self._held = {step: self._restored(versions, **held) for step, held in state["held"].items()}

    def _restored(self, versions: list[Weights], weights: int, **held: Any) -> StashedWindow:
        return StashedWindow(**self._here(**held), weights=versions[weights])

    def _step(self, factor: float) -> None:
        super()._step(factor)
        self._today = {}

    def _copy(self) -> Weights:
        """Today's weights, out of the optimizer's reach; one copy for all windows until its next step."""
        if self.stash and not self._today:
            self._today = self._leaves({name: p.detach().clone() for name, p in self.module.named_parameters()})
        return self._today

    def _leaves(self, weights: Weights) -> Weights:
        return {name: weight.to(self.device).requires_grad_() for name, weight in weights.items()}
