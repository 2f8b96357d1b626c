"""True gradients that come late, and are used when they come: asynchronous pipeline training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni.errors import UsageError
from dni.interfaces.base import Interface, ReadyStep
from dni.losses import count_rows
from dni.metrics import FitMeter
from dni.misuse import refuse_below, require_target

#: Windows a stage may go back through in one step: it catches up, and answers each frame with a bounded number.
AT_ONCE = 2


class DelayedInterface(Interface):
    """The true gradient of an earlier window, for a stage that keeps its windows (`dni.stages.weight_stashing`).

    Nothing is predicted and nobody waits: a stage goes back through its oldest windows, as far as their gradients have
    come (PipeDream, Narayanan et al. 2019).

    What comes late meets weights that have moved on. Nesterov's momentum corrects for that (Ajanthan et al. 2025, arXiv
    2505.01099): the weights of a forward pass already look ahead along the mean of the gradients, and a late gradient
    itself enters by (1 - mu) alone. torch's NAdam takes these steps, here without its corrections of bias, and
    `optimizer=nesterov` is NAdam with beta = 0.99:

        w_{t+1} = w_t - rate * ((1 - mu_t) g_s + mu_{t+1} m_t) / sqrt(v_t),    m_t = beta m_{t-1} + (1 - beta) g_s,
        mu_t = beta (1 - 0.96^(0.004 t) / 2),    g_s = dL_s/dw of the window s <= t that is due

    Args:
        edges: how many edges lie between this output and the loss.
        lag: steps a gradient is late per edge: at step t the window of step t - lag * edges is due, whatever has come
            beyond it. None goes by what has come.
    """

    targets_first = True

    def __init__(self, edges: int = 1, lag: int | None = None) -> None:
        refuse_below(1, edges=edges)
        refuse_below(0, lag=lag)
        self.lag, self.late = lag, 0 if lag is None else lag * edges
        self._labels: dict[int, int] = {}  # step -> labels, of the windows that are waiting
        self._arrived: dict[int, Tensor] = {}
        self._done = -1  # the newest step that was due
        self.total, self.recent = FitMeter(), FitMeter()

    def required_step(self, step: int) -> int | None:
        return None if self.lag is None else step - self.lag

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """There is none yet. Raises UsageError."""
        raise UsageError(
            "a delayed gradient is that of an earlier step: go through `for due in cut.due(step, value, labels)`, each "
            "with stage.backward(due.gradient, None, due.step) of a dni.StashingStage"
        )

    def ready_steps(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        self._labels[step] = count_rows(labels)
        ready = sorted(earlier for earlier in self._arrived if earlier <= step - self.late)
        return [self._take(earlier, step) for earlier in ready[:AT_ONCE]]

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Keep the gradient until it is due; of a step that is used or given up it is ignored."""
        require_target(step, gradient)
        if step > self._done:
            self._arrived[step] = gradient

    def means(self) -> dict[str, float | None]:
        return {"staleness": self.total.means()["staleness"]}

    def take_recent(self) -> dict[str, float | None]:
        recent, self.recent = self.recent, FitMeter()
        return {"staleness": recent.means()["staleness"]}

    def state_dict(self) -> dict[str, Any]:
        meters = [{**vars(self.total)}, {**vars(self.recent)}]
        return {"labels": self._labels, "arrived": self._arrived, "done": self._done, "meters": meters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._labels, self._arrived, self._done = dict(state["labels"]), dict(state["arrived"]), state["done"]
        self.total, self.recent = (FitMeter(**sums) for sums in state.get("meters", ({}, {})))

    def _take(self, step: int, now: int) -> ReadyStep:
        """Gradients come in order: a window before this one has lost its own, and is given up."""
        due, self._done = ReadyStep(step, self._arrived.pop(step), self._labels[step]), step
        self._labels = {later: count for later, count in self._labels.items() if later > step}
        for meter in (self.total, self.recent):
            meter.updates += 1
            meter.staleness += now - step
        return due
