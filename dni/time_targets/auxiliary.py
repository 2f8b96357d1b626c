"""The auxiliary task of a recurrent network: foretell the synthetic gradient at the end of the next window."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni.interfaces.synthetic import DecoupledInterface
from dni.time_targets.base import Bootstrap, PastWindow, StateTarget
from dni.time_targets.functional import auxiliary_gradient


class Auxiliary(Bootstrap):
    """Bootstrapped targets, and in them the gradient of the auxiliary loss  c |a(s_{t-1}) - g_t|^2.

    A second head a sees the state s_{t-1} that enters a window, and is asked for the synthetic gradient g_t that the
    cut will answer at the window's end (Jaderberg et al. 2017, section 2.1). g_t is known only when the backward pass
    of the window that s_{t-1} comes from is over. So the loss's gradient with respect to s_{t-1} is added to the target
    of the cut t-1, as if it were a loss of window t: it reaches the network through the synthetic gradient, and one
    backward pass per window stays. Rows whose sequence starts or ends with the window have no part in it.

    Args:
        head: predicts g_t from s_{t-1} without labels; its optimizer and fits are its own.
        weight: c.
    """

    def __init__(self, head: DecoupledInterface, weight: float) -> None:
        self.head, self.weight = head, weight
        self._entering: Tensor | None = None

    def targets(self, window: PastWindow, gradient: Tensor | None) -> list[StateTarget]:
        """The target of the cut before the window; the head is fitted after it was asked."""
        entering, self._entering = self._entering, window.state
        future = window.state_gradient
        if entering is None or gradient is None or future is None:
            return super().targets(window, gradient)
        over = window.reset.to(entering.device) | window.ends
        asked = auxiliary_gradient(self.head.predictor, entering, future, over, self.weight)
        self.head.gradient(window.step, entering, None, over)
        self.head.target(window.step, future)
        return super().targets(window, gradient + asked)

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "entering": self._entering}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._entering = state["entering"]
        if self._entering is not None:
            device = next(self.head.predictor.parameters()).device
            self._entering = self._entering.to(device)
