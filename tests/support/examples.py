"""Runs of examples/, and the same models unsplit in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dni.losses import summed_cross_entropy
from dni.models import ModelContext
from dni.types import IGNORED
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.config.settings import Config

EXAMPLES = Path(__file__).parents[2] / "examples"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "optimizer": {"clip": None}}

#: Imports a module of an example, from (folder, module).
Import = Callable[[str, str], ModuleType]


def run(model: dict[str, Any], **changes: Any) -> Config:
    return tiny(**{"model": model, "stages": 4, "data": {"batch": 4, "window": 8, "sequence": None}, **changes})


def trained(config: Config, build: Callable[[ModelContext], Callable[[Tensor], Tensor]]) -> None:
    """Train an unsplit model by plain backpropagation, without clipping."""
    config, opened = resolve(config)
    torch.manual_seed(config.seed)
    predict = build(ModelContext(opened.symbols, opened.input_symbols, tuple(opened.input_shape or ())))
    parameters = list(predict.parameters())  # type: ignore[attr-defined]
    optimizer = config.optimizer.build(parameters)
    for _ in range(config.steps):
        window = opened.train.next()
        summed_cross_entropy(predict(window.inputs), window.labels).backward()
        for parameter in parameters:
            parameter.grad.div_(int((window.labels != IGNORED).sum()))
        optimizer.step()
        optimizer.zero_grad()
