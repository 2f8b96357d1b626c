"""The optimizers of the stages: those of the package, any of torch by its name, and the base class of your own."""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dni.errors import ConfigError
from dni.lr_schedule import Constant, LRSchedule
from dni.plugin import RunContext
from dni.ranges import above_zero, below_one, one_or_more, zero_or_more


@dataclass
class Optimizer(ABC):
    """Base class of the optimizers, and what all of them share.

    An optimizer of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of the
    section `optimizer`, with those below. `build` is all that it must have.
    """

    learning_rate: float = above_zero(4e-3)  # [rate] of the stages, whatever the schedule makes of it; predictors have
    # theirs
    schedule: LRSchedule = field(default_factory=Constant, metadata={"plugin": LRSchedule})  # of the learning rate, by
    # training steps: the same at all stages, whether they moved or not
    clip: float | None = above_zero(1.0)  # [norm] largest, of a stage's gradient; a longer one is scaled down to it;
    # null: never
    accumulate: int = one_or_more(1)  # [windows] whose gradients are summed for one optimizer step
    staleness: float = zero_or_more(0.0)  # [exponent] a: a step is taken at (1 + s)^-a of the learning rate, s the
    # steps by which its gradient is late (depth=delayed), or the newest target of the predictor was (depth=synthetic)

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer of torch over the parameters of one stage, at `learning_rate`."""

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that cannot be trained with this optimizer."""
        self.schedule.check(run)


@dataclass
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015)."""

    beta1: float = below_one(0.9)  # [share] of the mean of the gradients that stays at a step
    beta2: float = below_one(0.999)  # [share] of the mean of their squares that stays at a step
    weight_decay: float = zero_or_more(0.0)  # [share] of all parameters at every optimizer step, none without a
    # gradient; adam, sgd: added to the gradient; adamw, nadam: decoupled

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(parameters, self.learning_rate, betas, weight_decay=self.weight_decay, fused=True)


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(parameters, self.learning_rate, betas, weight_decay=self.weight_decay, fused=True)


@dataclass
class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016) and decoupled weight decay."""

    momentum_decay: float = zero_or_more(0.004)  # [rate] its momentum rises as beta1 (1 - 0.96^(momentum_decay n) / 2);
    # 0: stays at half of beta1; 1000: is beta1 from the first step on

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.NAdam(
            parameters, self.learning_rate, (self.beta1, self.beta2), weight_decay=self.weight_decay,
            momentum_decay=self.momentum_decay, decoupled_weight_decay=True,
        )  # fmt: skip


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent."""

    momentum: float = zero_or_more(0.0)  # [share] of the last step that is taken again
    nesterov: bool = False  # Nesterov's momentum
    weight_decay: float = zero_or_more(0.0)  # [share] of all parameters, added to the gradient

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov=true needs momentum: set optimizer.momentum=0.9, say")


@dataclass
class Torch(Optimizer):
    """Any optimizer after torch's pattern, by its name: `CLASS(parameters, lr=learning_rate, **arguments)`."""

    name: str = "torch.optim.RMSprop"  # its MODULE.CLASS
    arguments: dict[str, Any] = field(default_factory=dict)  # that are passed to it by name

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made = pkgutil.resolve_name(self.name)(parameters, lr=self.learning_rate, **self.arguments)
        assert isinstance(made, torch.optim.Optimizer)
        return made

    def check(self, run: RunContext) -> None:
        super().check(run)
        asked = f"optimizer.name={self.name}"
        try:
            found = pkgutil.resolve_name(self.name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{asked} cannot be imported ({error}): write its MODULE.CLASS") from error
        if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
            raise ConfigError(f"{asked} is no optimizer of torch: name a subclass of torch.optim.Optimizer")
        try:
            self._try()
        except Exception as error:  # whatever that class raises
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{asked} takes no step with optimizer.arguments={self.arguments}: {said}; change them"
            ) from error

    def _try(self) -> None:
        """Take one step as a stage does: with dense gradients, without a closure."""
        parameter = nn.Parameter(torch.ones(2, 2))
        parameter.grad = torch.ones(2, 2)
        self.build([parameter]).step()
