"""What a caller of `dni` gets wrong, said at once: what it is, and what to write instead.

What every step asks costs a comparison of two shapes. What costs more is looked at once, or after torch has refused.
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

#: What torch refuses shapes, devices, element types and labels out of range with.
REFUSALS = (RuntimeError, IndexError, ValueError, TypeError)


def refuse_stage(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    device: torch.device,
    **settings: int | None,
) -> None:
    """Raises UsageError for what a stage cannot be made of; `settings` that are not None must be 1 or more."""
    refuse_layers(module)
    refuse_optimizer(module, optimizer, schedule)
    refuse_device(module, device)
    refuse_below(1, **settings)


def refuse_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, schedule: LRScheduler | None = None) -> None:
    """Raises UsageError unless the optimizer updates the module's trainable parameters, all of them and no others."""
    name, own = type(module).__name__, dict(module.named_parameters())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = {key for key, parameter in own.items() if parameter.requires_grad}
    missing = sorted(key for key in trained if id(own[key]) not in held)
    write = f"write {type(optimizer).__name__}(module.parameters(), ...) for each module"
    if not own:
        raise UsageError(f"{name} has no parameters, so nothing to train: join it with the layers before or after it")
    if not trained:
        raise UsageError(f"no parameter of {name} requires a gradient: call requires_grad_() on those to be trained")
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UsageError(
            f"the optimizer does not update {len(missing)} of the {len(trained)} trainable parameters of {name} "
            f"({some}), which would never learn: {write}, and call requires_grad_(False) on what is to stay as it is"
        )
    if others := len(held - {id(parameter) for parameter in own.values()}):
        raise UsageError(f"the optimizer updates {others} parameters that are not those of this {name}: {write}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise UsageError("the schedule is that of another optimizer: make it from the one that is given beside it")


def refuse_device(module: nn.Module, device: torch.device) -> None:
    """Raises UsageError for a parameter that lives on another device."""
    for name, parameter in module.named_parameters():
        if not _same_device(parameter.device, device):
            raise UsageError(
                f"{name} is on {parameter.device}, and the stage on {device}: call module.to({str(device)!r}) before "
                f"its optimizer is made, or say device={str(parameter.device)!r}"
            )


def refuse_layers(module: nn.Module) -> None:
    """Raises UsageError for recurrent layers inside of another `nn.Sequential`, where their state would be lost."""
    for name, layer in module.named_children() if isinstance(module, nn.Sequential) else [("0", module)]:
        inside = [part for part in layer.modules() if part is not layer]
        if isinstance(layer, nn.Sequential) and layer is not module and any(isinstance(p, Recurrent) for p in inside):
            raise UsageError(
                f"layer {name!r} is a {type(layer).__name__} with layers that carry state, which only the outermost "
                "nn.Sequential passes on: write nn.Sequential(*first, *second) in the place of one inside the other"
            )


def refuse_below(least: int, **settings: int | None) -> None:
    """Raises UsageError for a setting that is not None and below `least`."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise UsageError(f"{name}={value} must be {least} or more")


def refuse_input(activation: object) -> None:
    """Raises UsageError for what is neither a tensor nor a dict of named tensors."""
    if not is_value(activation):
        raise UsageError(
            f"forward takes a tensor or a dict of named tensors, not a {type(activation).__name__}: torch.as_tensor "
            "makes one"
        )


def refuse_divisor(divisor: float) -> None:
    """Raises UsageError for a number that gradients cannot be divided by."""
    if not divisor > 0:
        raise UsageError(f"update divides by {divisor}: give it the number of labels of the window")


def refuse_earlier(step: int, newest: int) -> NoReturn:
    """Raises UsageError for a backward pass through another window than the one that was run last."""
    raise UsageError(
        f"backward through step {step}, but the stage keeps step {newest} alone: give forward and backward the same "
        "step, or take a dni.StashingStage, which keeps its windows"
    )


def refuse_gradient(gradient: Tensor, output: Tensor) -> None:
    """Raises UsageError if it cannot be the gradient of a stage's output."""
    if gradient.shape != output.shape:
        raise UsageError(
            f"a gradient of shape {tuple(gradient.shape)} came back for an output of shape {tuple(output.shape)}: give "
            "backward what the interface at this stage's own output has answered for it"
        )
    if not output.requires_grad:
        raise UsageError(
            f"the stage's output ({output.dtype}) has no gradient: forward ran under torch.no_grad(), or no layer "
            "with a trainable parameter made it, or one detached it"
        )


def require_target(step: int, gradient: Tensor | None, value: Tensor | None = None) -> None:
    """Raises UsageError if there is no target, or not of the shape of the value that it is for."""
    if gradient is None:
        raise UsageError(
            f"step {step} has no target gradient: the stage that got this value was made with first=True, or got "
            "integers, which have no gradient (only the first stage may)"
        )
    if value is not None and gradient.shape != value.shape:
        raise UsageError(
            f"step {step}: a target of shape {tuple(gradient.shape)} for a value of shape {tuple(value.shape)}: give "
            "the interface the activation gradient of the stage that got this value, at the same step"
        )


def misfit(model: nn.Module, value: Tensor, labels: Tensor | None) -> str | None:
    """Why a model at a cut (or without parameters: the loss) cannot take a value and its labels; None: unknown."""
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
        return f"the value is {value.dtype} and {name} {mine.dtype}: call .to({value.dtype}) on it before its optimizer"
    wrong = _feature_misfit(name, getattr(model, "features", None), value)
    if not classes or labels is None or hasattr(model, "history"):  # a guessing critic sees inputs in their place
        return wrong
    return wrong or _wrong_labels(name, classes, labels)


def _feature_misfit(name: str, features: int | None, value: Tensor) -> str | None:
    size = value.shape[1] if value.dim() == 4 else value.shape[-1]
    if features is None or size == features:
        return None
    return f"{name} is made for {features} features, and the value of shape {tuple(value.shape)} has {size}"


def label_misfit(name: str, scores: Tensor, labels: Tensor) -> str | None:
    """Why labels cannot be those of scores (..., V)."""
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
    """Raise what torch's refusal comes from as UsageError, or the refusal itself where that is not known."""
    if why is None:
        raise error
    raise UsageError(f"step {step}: {why}") from error


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index is None or other.index is None or one.index == other.index)
