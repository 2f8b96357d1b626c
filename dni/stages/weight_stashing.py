"""A stage that keeps its windows until their gradients arrive: weight stashing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.named_tensors import Value
from dni.stages.graph import Gradients, Graph
from dni.stages.recompute import RecomputingStage, SavedWindow

#: The weights of a forward pass, by parameter name: leaves of its graph.
Weights = dict[str, Tensor]


@dataclass
class StashedWindow(SavedWindow):
    """A window that was run and whose gradient is still to come."""

    weights: Weights  #: of the forward pass; empty: the backward pass uses the current ones
    graph: Graph | None = None  #: None: the backward pass recomputes the window


class StashingStage(RecomputingStage):
    """A stage that runs the backward pass of window s at a later step t, and updates the current weights:

        w_{t+1} = w_t - rate * dL_s/dw (w_s),    s <= t,    with stash (PipeDream, Narayanan et al. 2019)
        w_{t+1} = w_t - rate * dL_s/dw (w_t),    without stash: the window is recomputed with the current weights

    Both use the output gradient of step s. With stash, the stage keeps one copy of the weights for every optimizer step
    since its oldest window. If `accumulate` is at least the number of kept windows, these are at most two copies (as in
    PipeDream-2BW, Narayanan et al. 2021). Without stash, it keeps no weights, and no activations but the input.

    Args:
        stash: keep the weights and the activations of the forward pass.
        settings: those of `Stage`.
    """

    keeps_windows = True

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, *, stash: bool = True, **settings: Any
    ) -> None:
        super().__init__(module, optimizer, **settings)
        self.stash = self._keeps_graph = stash
        self._windows: dict[int, StashedWindow] = {}
        self._stashed: Weights = {}  # a copy of the current parameters; empty: not made yet

    def forward(self, activation: Value, reset: Tensor | None = None, step: int = 0) -> tuple[Value, Tensor | None]:
        """Run one window as `Stage.forward` does, and keep it under its step."""
        window = StashedWindow(**self._remember(activation, reset), weights=self._copy())
        self._instead = window.weights
        answer = super().forward(activation, reset, step)
        self._instead = {}
        window.graph, self._graph = self._graph if self._keeps_graph else None, None
        self._windows[step] = window
        return answer

    def backward(self, output: Value | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """Run a backward pass as `Stage.backward` does, through the window of `step`, and drop earlier windows."""
        window = self._window(step)
        self._windows = {later: kept for later, kept in self._windows.items() if later > step}
        return self._go_back(window, output, state, step)

    def _window(self, step: int) -> StashedWindow:
        if step not in self._windows:
            raise UsageError(f"no window of step {step} to go back through: the stage keeps {sorted(self._windows)}")
        return self._windows[step]

    def _go_back(self, window: StashedWindow, output: Value | None, state: Tensor | None, step: int) -> Gradients:
        self._instead = window.weights
        if window.graph is None:
            self._run_again(window)
        else:
            self._graph = window.graph
        gradients = super().backward(output, state, step)
        self._instead = {}
        for name, parameter in self.module.named_parameters() if window.weights else ():
            then = window.weights[name]
            if then.grad is not None:
                parameter.grad = then.grad if parameter.grad is None else parameter.grad.add_(then.grad)
            then.grad = None
        return gradients

    def keeps(self, step: int) -> bool:
        return step in self._windows

    @property
    def versions(self) -> int:
        """Number of copies of the weights that the windows hold."""
        return len({id(window.weights) for window in self._windows.values() if window.weights})

    def state_dict(self) -> dict[str, Any]:
        versions = {id(window.weights): window.weights for window in self._windows.values()}
        places = {key: place for place, key in enumerate(versions)}
        windows = {
            step: {**vars(window), "weights": places[id(window.weights)], "graph": None}
            for step, window in self._windows.items()
        }
        return {**super().state_dict(), "held": windows, "versions": list(versions.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._stashed = {}
        versions = [self._leaves(version) for version in state["versions"]]
        self._windows = {step: self._restored(versions, **window) for step, window in state["held"].items()}

    def _restored(self, versions: list[Weights], weights: int, **window: Any) -> StashedWindow:
        return StashedWindow(**self._here(**window), weights=versions[weights])

    def _step(self, factor: float) -> None:
        super()._step(factor)
        self._stashed = {}

    def set_replicas(self, values: Mapping[str, Tensor]) -> None:
        super().set_replicas(values)
        self._stashed = {}

    def _copy(self) -> Weights:
        """Return a copy of the current weights, shared by all windows until the next optimizer step."""
        if self.stash and not self._stashed:
            self._stashed = self._leaves({name: p.detach().clone() for name, p in self.module.named_parameters()})
        return self._stashed

    def _leaves(self, weights: Weights) -> Weights:
        return {name: weight.to(self.device).requires_grad_() for name, weight in weights.items()}
