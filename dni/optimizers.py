"""Optimizers of the stages: those of the package, any torch optimizer by name, and the base class for your own."""

from __future__ import annotations

import enum
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.lr_schedule import Constant, LRSchedule
from dni.plugin import RunContext
from dni.ranges import above_zero, below_one, one_or_more, zero_or_more
from dni.types import StagePlace

Parameters = Iterable[nn.Parameter]
ClipNorm = enum.Enum("ClipNorm", ["stage", "global"])


@dataclass
class Optimizer(ABC):
    """Base class of the optimizers, with the settings that all of them share.

    To add an optimizer, write a dataclass that subclasses this class, in a module of your own. Its fields, and those
    below, are the settings of the section `optimizer`. Only `build` is required.
    """

    learning_rate: float = above_zero(4e-3)  # [rate] of the stages, before the schedule's factor; predictors have their
    # own
    schedule: LRSchedule = field(default_factory=Constant, metadata={"plugin": LRSchedule})  # schedule of the learning
    # rate; it counts all training steps, with or without an update, so that all stages have the same rate
    clip: float | None = above_zero(1.0)  # [norm] largest norm of a stage's gradient; longer ones are scaled down;
    # null: no clipping
    clip_norm: ClipNorm = ClipNorm.stage  # which norm `clip` limits. stage: that of each stage's own gradient; global:
    # that of all stages together, exact where stages wait for the gradient of every step, and of the newest known ones
    # elsewhere
    accumulate: int = one_or_more(1)  # [windows] gradients of so many windows are summed for one optimizer step
    staleness: float = zero_or_more(0.0)  # [exponent] a: multiply the learning rate of a step by (1 + s)^-a, where s is
    # the delay in steps of its gradient (depth=delayed), or of the predictor's newest target (depth=synthetic)

    #: `build_for` looks at the layers of the module.
    by_layer: ClassVar[bool] = False

    @abstractmethod
    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return a torch optimizer over the parameters of one stage, with the rate `learning_rate`."""

    def build_for(self, module: nn.Module, parameters: Parameters, place: StagePlace) -> torch.optim.Optimizer:
        """As `build`, for an optimizer that treats layers (`by_layer`) or stages differently. `module`: the stage's."""
        return self.build(parameters)

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that this optimizer cannot train."""
        self.schedule.check(run)
        if self.over_all_stages and self.clip is None:
            raise ConfigError(
                "optimizer.clip_norm=global limits a norm, and optimizer.clip=null sets no limit: set optimizer.clip=1 "
                "(or optimizer.clip_norm=stage)"
            )

    @property
    def over_all_stages(self) -> bool:
        """Whether gradients are clipped by their norm over all stages."""
        return self.clip_norm is ClipNorm["global"]


@dataclass
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015)."""

    beta1: float = below_one(0.9)  # [factor] decay of the running mean of the gradients, per step
    beta2: float = below_one(0.999)  # [factor] decay of the running mean of the squared gradients, per step
    weight_decay: float = zero_or_more(0.0)  # [factor] of weight decay of all parameters, at optimizer steps with a
    # gradient; adam, sgd: added to the gradient; adamw, muon, nadam: decoupled

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(parameters, self.learning_rate, betas, weight_decay=self.weight_decay, fused=True)


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(parameters, self.learning_rate, betas, weight_decay=self.weight_decay, fused=True)


@dataclass
class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016) and decoupled weight decay.

    With `beta1_last`, a stage has the more momentum, the later its gradients can be (Ajanthan et al. 2025).
    """

    momentum_decay: float = zero_or_more(0.004)  # [rate] at step n the momentum is beta1 (1 - 0.96^(momentum_decay n) /
    # 2); 0: it stays at beta1 / 2; 1000: it is beta1 from the first step on
    beta1_last: float | None = below_one(
        None
    )  # [factor] beta1 of the last stage; with it, stage k = 0, 1, ... of K has
    # beta1_last + (K - 1 - k) / K (beta1 - beta1_last); null: all stages have beta1

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.NAdam(
            parameters, self.learning_rate, (self.beta1, self.beta2), weight_decay=self.weight_decay,
            momentum_decay=self.momentum_decay, decoupled_weight_decay=True,
        )  # fmt: skip

    def build_for(self, module: nn.Module, parameters: Parameters, place: StagePlace) -> torch.optim.Optimizer:
        last = self.beta1 if self.beta1_last is None else self.beta1_last
        own = last + (place.stages - 1 - place.index) / place.stages * (self.beta1 - last)
        return replace(self, beta1=own).build(parameters)


AdjustKind = enum.Enum("AdjustKind", ["original", "match_rms_adamw"])


@dataclass
class Muon(Optimizer):
    """Muon for the matrices of hidden layers (Jordan et al. 2024), AdamW for all other parameters: embeddings, the last
    matrix of the model (its scores), biases, gains and filters.
    """

    by_layer: ClassVar[bool] = True

    momentum: float = below_one(0.95)  # [factor] of momentum
    nesterov: bool = True  # use Nesterov's momentum
    iterations: int = one_or_more(5)  # [iterations] of Newton-Schulz, which make a momentum nearly orthogonal
    adjust: AdjustKind = AdjustKind.match_rms_adamw  # how Muon's rate depends on the shape (A, B) of a matrix.
    # original: sqrt(max(1, A/B)) times; match_rms_adamw: 0.2 sqrt(max(A, B)) times, about as long as AdamW's steps (Liu
    # et al. 2025)
    other_learning_rate: float | None = above_zero(None)  # [rate] of AdamW; null: `learning_rate`; the schedule's
    # factor is the same
    beta1: float = below_one(0.9)  # [factor] decay of the running mean of the gradients, per step
    beta2: float = below_one(0.999)  # [factor] decay of the running mean of the squared gradients, per step
    weight_decay: float = zero_or_more(0.0)  # [factor] of decoupled weight decay of all parameters

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return an optimizer that takes every matrix for one of a hidden layer."""
        return self._build(list(parameters), ())

    def build_for(self, module: nn.Module, parameters: Parameters, place: StagePlace) -> torch.optim.Optimizer:
        every = module.named_parameters(remove_duplicate=False)  # the last use of a shared matrix counts, too
        matrices = [each for _, each in every if each.ndim == 2]
        lookups = [layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
        return self._build(list(parameters), [*lookups, *(matrices[-1:] if place.last else [])])

    def _build(self, parameters: Sequence[nn.Parameter], no_matrices: Collection[Tensor]) -> MuonAdamW:
        apart = {id(each) for each in no_matrices}
        hidden = [each for each in parameters if each.ndim == 2 and id(each) not in apart]
        taken = {id(each) for each in hidden}
        others = [each for each in parameters if id(each) not in taken]
        parts: list[torch.optim.Optimizer] = []
        if hidden:
            muon = torch.optim.Muon(
                hidden, self.learning_rate, self.weight_decay, self.momentum, self.nesterov, ns_steps=self.iterations,
                adjust_lr_fn=self.adjust.name,
            )  # fmt: skip
            parts.append(muon)
        if others:
            rate, betas = self.other_learning_rate or self.learning_rate, (self.beta1, self.beta2)
            parts.append(torch.optim.AdamW(others, rate, betas, weight_decay=self.weight_decay, fused=True))
        return MuonAdamW(parts)


class MuonAdamW(torch.optim.Optimizer):
    """Several optimizers as one, with the groups and the state of all of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of each of them."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Give each its groups, which are those of this optimizer, and the state of all."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent."""

    momentum: float = zero_or_more(0.0)  # [factor] of momentum
    nesterov: bool = False  # use Nesterov's momentum
    weight_decay: float = zero_or_more(0.0)  # [factor] of weight decay, added to the gradient

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov=true needs momentum: set optimizer.momentum=0.9, say")


@dataclass
class Torch(Optimizer):
    """Any torch optimizer, by name: `CLASS(parameters, lr=learning_rate, **arguments)`."""

    name: str = "torch.optim.RMSprop"  # MODULE.CLASS of the optimizer
    arguments: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the optimizer

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
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
            raise ConfigError(f"{asked} is not a torch optimizer: name a subclass of torch.optim.Optimizer")
        try:
            self._try()
        except Exception as error:  # the class may raise any error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{asked} cannot take a step with optimizer.arguments={self.arguments}: {reason}; change the arguments"
            ) from error

    def _try(self) -> None:
        """Take one step as a stage does, with dense gradients and without a closure."""
        parameter = nn.Parameter(torch.ones(2, 2))
        parameter.grad = torch.ones(2, 2)
        self.build([parameter]).step()
