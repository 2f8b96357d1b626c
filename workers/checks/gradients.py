"""Compare the backward passes of the stages with finite differences of their forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.data.base import Data
from dni.loss_function import LossFunction
from dni.named_tensors import Value, batch_of, floating, map_tensors, named
from dni.recurrent import Chain
from dni.rng import without_dropout
from workers.build.own_code import as_config_error
from workers.checks.verdict import Verdict, first_windows, parts_of
from workers.config.settings import Config

#: Random directions for each tensor.
DIRECTIONS = 3


@dataclass(frozen=True)
class Exactness:
    """How exactly to compute: element type, length of a difference's step, largest relative error."""

    dtype: torch.dtype
    step: float
    most: float


#: 64 bits; 32 bits for layers that take nothing else.
DOUBLE, SINGLE = Exactness(torch.float64, 1e-6, 1e-4), Exactness(torch.float32, 1e-2, 5e-2)


def check_gradients(config: Config, data: Data) -> Verdict:
    """Compare, for every parameter and the input of every stage, and for the loss function.

    For random directions v, the derivative g.v of the backward pass must equal (f(x + hv) - f(x - hv)) / 2h. f is the
    loss at the last stage, and a random weighting of output and state at the others. Dropout is off. Raises ConfigError
    for a model that cannot run.
    """
    window, labels = first_windows(config, data)
    with as_config_error(f"model={config.model.name} cannot be checked"):
        try:
            return _verdict(config, window.inputs, labels, DOUBLE)
        except RuntimeError as error:
            if "dtype" not in str(error) and "Double" not in str(error):
                raise
            return _verdict(config, window.inputs, labels, SINGLE)


def _verdict(config: Config, value: Value, labels: Tensor, exactness: Exactness) -> Verdict:
    chains, worst, compared = parts_of(config), 0.0, 0
    value = map_tensors(lambda each: each.to(exactness.dtype) if each.is_floating_point() else each, value)
    for index, chain in enumerate(chains):
        with without_dropout(chain.to(exactness.dtype)):
            last = index == len(chains) - 1
            probe = _Probe(chain, value, (config.loss, labels) if last else None, exactness)
            if not probe.repeats:
                return Verdict(False, f"stage {index}: two forward passes of one input differ: it cannot be checked")
            for name, error in probe.errors():
                worst, compared = max(worst, error), compared + 1
                if not error <= exactness.most:
                    return Verdict(False, _fault(index, name, error, exactness))
            value = probe.output
    return Verdict(True, f"{compared} gradients of {len(chains)} stages, largest relative error {worst:.1e}")


def _fault(index: int, name: str, error: float, exactness: Exactness) -> str:
    return (
        f"stage {index}: the gradient of {name} is not the derivative of the forward pass: relative error {error:.1e}, "
        f"at most {exactness.most:.0e} is expected; look at the backward pass of that layer and of those after it"
    )


class _Probe:
    """A scalar function of one stage, its gradients, and its differences."""

    def __init__(
        self, chain: Chain, value: Value, loss: tuple[LossFunction, Tensor] | None, exactness: Exactness
    ) -> None:
        self.chain, self.loss, self.exactness = chain, loss, exactness
        self.value = map_tensors(lambda each: each.detach().requires_grad_(each.is_floating_point()), value)
        self.generator = torch.Generator().manual_seed(0)
        self.weights: list[Tensor] = []
        with torch.no_grad():
            output, _ = self._run()
            self.output: Value = map_tensors(Tensor.detach, output)
        scalar = self.scalar()
        self.size = max(1.0, abs(scalar.item()))
        with torch.no_grad():
            self.repeats = torch.equal(self.scalar(), scalar)
        self.leaves = {**self._inputs(), **{n: p for n, p in chain.named_parameters() if p.requires_grad}}
        found = torch.autograd.grad(scalar, [*self.leaves.values()], allow_unused=True, materialize_grads=True)
        self.gradients = dict(zip(self.leaves, found, strict=True))

    def errors(self) -> Iterator[tuple[str, float]]:
        """Yield the relative error of every gradient, over the random directions."""
        for name, leaf in self.leaves.items():
            pairs = [self._pair(leaf, self.gradients[name]) for _ in range(DIRECTIONS)]
            both = torch.tensor(pairs, dtype=torch.float64)
            noise = self.size * torch.finfo(self.exactness.dtype).eps / self.exactness.step / self.exactness.most
            norm = both.norm(dim=0).max().item()
            yield name, (both[:, 0] - both[:, 1]).norm().item() / max(norm, noise)

    def scalar(self) -> Tensor:
        """Return the loss, or the weighted sum of output and leaving state."""
        output, state = self._run()
        if self.loss is not None:
            function, labels = self.loss
            return function.summed(output, labels)
        ends = [*floating(output).values(), *state]
        self.weights = self.weights or [self._normal(each) for each in ends]
        return torch.stack([(w * each).sum() for w, each in zip(self.weights, ends, strict=True)]).sum()

    def _run(self) -> tuple[Value, tuple[Tensor, ...]]:
        fresh = map_tensors(Tensor.clone, self.value)  # the first layer may work in place
        found: tuple[Value, tuple[Tensor, ...]] = self.chain(fresh, self.chain.initial_state(batch_of(fresh)))
        return found

    def _inputs(self) -> dict[str, Tensor]:
        return {f"its input {name}".strip(): each for name, each in named(self.value).items() if each.requires_grad}

    def _pair(self, leaf: Tensor, gradient: Tensor) -> tuple[float, float]:
        """Return the derivative in a random direction, by the backward pass and by differences."""
        direction, step, before = self._normal(leaf), self.exactness.step, leaf.detach().clone()
        ahead, behind = (self._moved(leaf, before + sign * step * direction) for sign in (1, -1))
        self._moved(leaf, before)
        return (gradient * direction).sum().item(), (ahead - behind) / (2 * step)

    @torch.no_grad()
    def _moved(self, leaf: Tensor, values: Tensor) -> float:
        leaf.copy_(values)
        return self.scalar().item()

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)
