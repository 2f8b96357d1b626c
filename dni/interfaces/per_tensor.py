"""One interface for each named tensor of a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from dni.errors import UsageError
from dni.interfaces.base import Interface, ReadyStep
from dni.metrics.fit import FitMeter
from dni.named_tensors import Value


class PerTensorInterface(Interface):
    """The gradients of a dict of named tensors, each from an interface of its own.

    Values, gradients and targets are dicts. Tensors without an interface (integers, masks) have no gradient. All inner
    interfaces are of one method, so that they are ready for the same steps.

    Args:
        inner: the interface of each floating-point tensor, by name.
    """

    def __init__(self, inner: Mapping[str, Interface]) -> None:
        if not inner:
            raise UsageError("no tensor of this cut has a gradient: a stage must send a floating-point tensor")
        self.inner = dict(inner)
        first = next(iter(self.inner.values()))
        self.targets_first, self.learns_when_asked = first.targets_first, first.learns_when_asked
        self.predicts = first.predicts

    @property
    def learners(self) -> dict[str, nn.Module]:
        return {f"{name}.{place}": each for name, one in self.inner.items() for place, each in one.learners.items()}

    @property
    def fit_meter(self) -> FitMeter | None:
        meters = [each.fit_meter for each in self.inner.values()]
        return next((meter for meter in meters if meter is not None), None)

    @property
    def ready(self) -> bool:
        return all(each.ready for each in self.inner.values())

    @property
    def staleness(self) -> int:  # type: ignore[override]
        return max(each.staleness for each in self.inner.values())

    @property
    def local_loss(self) -> float | None:  # type: ignore[override]
        return _mean([each.local_loss for each in self.inner.values()])

    def required_step(self, step: int) -> int | None:
        return next(iter(self.inner.values())).required_step(step)

    def ready_steps(self, step: int, value: Value, labels: Tensor) -> list[ReadyStep]:
        self._refuse_missing(step, value)
        return self._joined([each.ready_steps(step, value[name], labels) for name, each in self.inner.items()])

    def on_skip(self, step: int, value: Value, labels: Tensor) -> list[ReadyStep]:
        return self._joined([each.on_skip(step, value[name], labels) for name, each in self.inner.items()])

    def gradient(self, step: int, value: Value, labels: Tensor | None, done: Tensor | None = None) -> Value:
        return self._each(lambda name, each: each.gradient(step, value[name], labels, done))

    def recompute(self, value: Value, labels: Tensor, answer: Value | None) -> Value:
        given = answer or {}
        return self._each(lambda name, each: each.recompute(value[name], labels, given.get(name)))

    def predict(self, value: Value, labels: Tensor | None, done: Tensor | None = None) -> Value:
        return self._each(lambda name, each: each.predict(value[name], labels, done))

    def target(self, step: int, gradient: Value, labels: Tensor | None = None) -> None:
        for name, each in self.inner.items():
            each.target(step, gradient[name], labels)

    def means(self) -> dict[str, float | None]:
        return _means([each.means() for each in self.inner.values()])

    def take_recent(self) -> dict[str, float | None]:
        return _means([each.take_recent() for each in self.inner.values()])

    def state_dict(self) -> dict[str, Any]:
        return {name: each.state_dict() for name, each in self.inner.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, each in self.inner.items():
            each.load_state_dict(state[name])

    def _refuse_missing(self, step: int, value: Value) -> None:
        missing = [name for name in self.inner if name not in value]
        if missing:
            raise UsageError(
                f"step {step}: the output has no tensor {', '.join(missing)}; a model must send the same tensors at "
                "every step"
            )

    def _each(self, call: Callable[[str, Interface], Tensor | None]) -> dict[str, Tensor | None]:
        return {name: call(name, each) for name, each in self.inner.items()}

    def _joined(self, ready: list[list[ReadyStep]]) -> list[ReadyStep]:
        """Return one list of steps with dicts of gradients. The lists name the same steps, except empty ones."""
        steps = [[each.step for each in one] for one in ready]
        if any(one != steps[0] for one in steps):
            raise UsageError(f"the tensors {', '.join(self.inner)} are ready for different steps: {steps}")
        joined = []
        for same in zip(*ready, strict=True):
            gradient: Value = dict(zip(self.inner, [each.gradient for each in same], strict=True))
            joined.append(ReadyStep(same[0].step, gradient, same[0].labels))
        return joined


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _means(figures: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean over the tensors of each figure."""
    return {key: _mean([each.get(key) for each in figures]) for key in dict.fromkeys(k for f in figures for k in f)}
