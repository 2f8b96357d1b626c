"""Checks of the calls of `dni`. Each error says what is wrong and what to write instead.

Checks that run at every step only compare two shapes. Costlier checks run at construction, or to explain an error that
torch has raised.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from dni.errors import UsageError
from dni.named_tensors import is_value
from dni.recurrent import Recurrent
from dni.types import IGNORED

#: The errors that torch raises for wrong shapes, devices and element types, and for labels out of range.
REFUSALS = (RuntimeError, IndexError, ValueError, TypeError)


def refuse_stage(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    device: torch.device,
    **settings: int | None,
) -> None:
    """Raise UsageError for arguments that a stage cannot work with; `settings` must be None, or 1 or more."""
    refuse_layers(module)
    refuse_optimizer(module, optimizer, schedule)
    refuse_device(module, device)
    refuse_below(1, **settings)


def refuse_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, schedule: LRScheduler | None = None) -> None:
    """Raise UsageError unless the optimizer updates exactly the module's trainable parameters."""
    name, own = type(module).__name__, dict(module.named_parameters())
    updated = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = {key for key, parameter in own.items() if parameter.requires_grad}
    missing = sorted(key for key in trained if id(own[key]) not in updated)
    write = f"write {type(optimizer).__name__}(module.parameters(), ...) for each module"
    if not own:
        raise UsageError(f"{name} has no parameters to train: join it with the layers before or after it")
    if not trained:
        raise UsageError(f"no parameter of {name} requires a gradient: call requires_grad_() on those to be trained")
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UsageError(
            f"the optimizer does not update {len(missing)} of the {len(trained)} trainable parameters of {name} "
            f"({some}), which would never learn: {write}, and call requires_grad_(False) on parameters to freeze"
        )
    if others := len(updated - {id(parameter) for parameter in own.values()}):
        raise UsageError(f"the optimizer updates {others} parameters that do not belong to this {name}: {write}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise UsageError("the schedule belongs to another optimizer: make it from the optimizer of this stage")


def refuse_device(module: nn.Module, device: torch.device) -> None:
    """Raise UsageError if a parameter is on another device."""
    for name, parameter in module.named_parameters():
        if not _same_device(parameter.device, device):
            raise UsageError(
                f"{name} is on {parameter.device}, and the stage on {device}: call module.to({str(device)!r}) before "
                f"you make its optimizer, or pass device={str(parameter.device)!r}"
            )


def refuse_layers(module: nn.Module) -> None:
    """Raise UsageError for recurrent layers inside a nested `nn.Sequential`, where their state would be lost."""
    for name, layer in module.named_children() if isinstance(module, nn.Sequential) else [("0", module)]:
        inside = [part for part in layer.modules() if part is not layer]
        if isinstance(layer, nn.Sequential) and layer is not module and any(isinstance(p, Recurrent) for p in inside):
            raise UsageError(
                f"layer {name!r} is a {type(layer).__name__} with layers that carry state, and only the outermost "
                "nn.Sequential passes state on: write nn.Sequential(*first, *second) instead of nesting them"
            )


def refuse_below(least: int, **settings: int | None) -> None:
    """Raise UsageError for a setting that is not None and below `least`."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise UsageError(f"{name}={value} must be {least} or more")


def refuse_input(activation: object) -> None:
    """Raise UsageError if the activation is neither a tensor nor a dict of named tensors."""
    if not is_value(activation):
        raise UsageError(
            f"forward takes a tensor or a dict of named tensors, not a {type(activation).__name__}: convert it with "
            "torch.as_tensor"
        )


def refuse_divisor(divisor: float) -> None:
    """Raise UsageError unless the divisor of the gradients is positive."""
    if not divisor > 0:
        raise UsageError(f"update divides by {divisor}: pass the number of labels of the window")


def refuse_earlier(step: int, newest: int) -> NoReturn:
    """Raise UsageError for a backward pass through a window that is not the newest one."""
    raise UsageError(
        f"backward through step {step}, but the stage keeps only step {newest}: pass the same step to forward and "
        "backward, or use a dni.StashingStage, which keeps its windows"
    )


def refuse_gradient(gradient: Tensor, output: Tensor) -> None:
    """Raise UsageError if the gradient cannot be that of a stage's output."""
    if gradient.shape != output.shape:
        raise UsageError(
            f"a gradient of shape {tuple(gradient.shape)} for an output of shape {tuple(output.shape)}: pass to "
            "backward the gradient from the interface at this stage's own output"
        )
    if not output.requires_grad:
        raise UsageError(
            f"the stage's output ({output.dtype}) has no gradient: forward ran under torch.no_grad(), no layer with "
            "a trainable parameter came before it, or a layer detached it"
        )


def require_target(step: int, gradient: Tensor | None, value: Tensor | None = None) -> None:
    """Raise UsageError if there is no target, or if its shape differs from that of its value."""
    if gradient is None:
        raise UsageError(
            f"step {step} has no target gradient: the stage that received this value was made with first=True, or its "
            "input is integers, which have no gradient (only the first stage may have these)"
        )
    if value is not None and gradient.shape != value.shape:
        raise UsageError(
            f"step {step}: a target of shape {tuple(gradient.shape)} for a value of shape {tuple(value.shape)}: pass "
            "the activation gradient of the stage that received this value, at the same step"
        )


def misfit(model: nn.Module, value: Tensor, labels: Tensor | None) -> str | None:
    """Say why a model at a cut, or the loss, cannot take a value and its labels; None: the reason is unknown."""
    if isinstance(rows := getattr(model, "rows", None), nn.Module):
        return misfit(rows, value.flatten(1), labels)
    mine = next(model.parameters(), None)
    name, classes = type(model).__name__, getattr(model, "classes", 0) or 0
    if mine is not None and not _same_device(value.device, mine.device):
        return (
            f"the value is on {value.device} and {name} on {mine.device}: call .to({str(value.device)!r}) on it first"
        )
    if labels is not None and not _same_device(value.device, labels.device):
        return f"the value is on {value.device} and its labels on {labels.device}: move the labels there"
    if not value.is_floating_point():
        return f"the value is {value.dtype}, and only floats have a gradient: cut the network elsewhere"
    if mine is not None and mine.dtype != value.dtype:
        return (
            f"the value is {value.dtype} and {name} {mine.dtype}: call .to({value.dtype}) on it before its optimizer, "
            f"or return {mine.dtype} at every step"
        )
    wrong = _feature_misfit(name, getattr(model, "features", None), value)
    if not classes or labels is None or hasattr(model, "history"):  # a soft-label critic sees inputs instead of labels
        return wrong
    return wrong or _wrong_labels(name, classes, labels)


def _feature_misfit(name: str, features: int | None, value: Tensor) -> str | None:
    size = value.shape[1] if value.dim() == 4 else value.shape[-1]
    if features is None or size == features:
        return None
    return (
        f"{name} is made for {features} features, and the value of shape {tuple(value.shape)} has {size}: make it for "
        "the size of the values, which is the same at every step"
    )


def label_misfit(name: str, scores: Tensor, labels: Tensor) -> str | None:
    """Say why labels do not fit scores (..., V); None: the reason is unknown."""
    if not _same_device(scores.device, labels.device):
        return f"{name} is on {scores.device} and the labels on {labels.device}: move the labels there"
    return _wrong_labels(name, scores.shape[-1], labels)


def _wrong_labels(name: str, classes: int, labels: Tensor) -> str | None:
    if labels.dtype != torch.int64:
        return f"labels must be whole numbers from 0 to {classes - 1}, torch.int64, not {labels.dtype}"
    counted = labels[labels != IGNORED]
    if len(counted) and (int(counted.max()) >= classes or int(counted.min()) < 0):
        return f"labels go from {int(counted.min())} to {int(counted.max())}, and {name} has {classes} classes"
    return None


def explain(error: Exception, step: int, why: str | None) -> NoReturn:
    """Raise UsageError with the reason of torch's error, or torch's error itself if the reason is unknown."""
    if why is None:
        raise error
    raise UsageError(f"step {step}: {why}") from error


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index is None or other.index is None or one.index == other.index)
