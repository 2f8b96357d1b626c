"""True gradients, used when they arrive some steps late: asynchronous pipeline training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni.errors import UsageError
from dni.interfaces.base import Interface, ReadyStep
from dni.metrics.fit import FitMeter
from dni.misuse import refuse_below, require_target

#: Most backward passes of a stage in one step. With two it catches up, and the work per frame stays bounded.
AT_ONCE = 2


class DelayedInterface(Interface):
    """The true gradient of an earlier window, for a stage that keeps its windows (`dni.stages.weight_stashing`).

    No gradient is predicted and no stage waits. At each step, a stage runs the backward pass of its oldest windows
    whose gradients have arrived (PipeDream, Narayanan et al. 2019).

    A late gradient updates weights that have changed since. Nesterov momentum corrects for that (Ajanthan et al. 2025,
    arXiv 2505.01099): the weights of a forward pass already look ahead along the mean gradient, and a late gradient
    itself has the weight 1 - mu. Torch's NAdam takes these steps (shown here without bias corrections), and
    `optimizer=nesterov` is NAdam with beta = 0.99:

        w_{t+1} = w_t - rate * ((1 - mu_t) g_s + mu_{t+1} m_t) / sqrt(v_t),    m_t = beta m_{t-1} + (1 - beta) g_s,
        mu_t = beta (1 - 0.96^(0.004 t) / 2),    g_s = dL_s/dw of the window s <= t that is due

    Args:
        edges: number of edges between this output and the loss.
        lag: delay of gradients in steps per edge: at step t exactly the window of step t - lag * edges is due, even if
            newer gradients have arrived. None uses gradients as they arrive.
    """

    targets_first = True

    def __init__(self, edges: int = 1, lag: int | None = None) -> None:
        refuse_below(1, edges=edges)
        refuse_below(0, lag=lag)
        self.lag, self.late = lag, 0 if lag is None else lag * edges
        self._labels: dict[int, int] = {}  # step -> number of labels, for windows without a backward pass yet
        self._arrived: dict[int, Tensor] = {}
        self._done = -1  # the newest step with a backward pass
        self.total, self.recent = FitMeter(), FitMeter()

    def required_step(self, step: int) -> int | None:
        return None if self.lag is None else step - self.lag

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Raise UsageError: the gradient of this step arrives later."""
        raise UsageError(
            "a delayed gradient belongs to an earlier step: write `for ready in cut.ready_steps(step, value, labels):` "
            "with stage.backward(ready.gradient, None, ready.step), where stage is a dni.StashingStage"
        )

    def ready_steps(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        self._labels[step] = self.count(labels)
        ready = sorted(earlier for earlier in self._arrived if earlier <= step - self.late)
        return [self._take(earlier, step) for earlier in ready[:AT_ONCE]]

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Keep the gradient until its step is due. Ignore the gradient of a step that is done or was skipped."""
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
        """Drop earlier windows as well: gradients arrive in order, so theirs were lost."""
        ready, self._done = ReadyStep(step, self._arrived.pop(step), self._labels[step]), step
        self._labels = {later: count for later, count in self._labels.items() if later > step}
        for meter in (self.total, self.recent):
            meter.updates += 1
            meter.staleness += now - step
        return ready
