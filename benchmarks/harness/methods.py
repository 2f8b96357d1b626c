"""The comparison in depth: tasks, methods, and four settings to try for each method.

Every method gets the same number of settings per task; the one with the best validation figure after the task's short
run, on a seed that no result is made with, is its recipe. Nothing here has seen a test split.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A model and its data.

    Args:
        overrides: settings, as words of a command.
        family: tasks of one family share their recipes.
        unit: what is reported: "bits" per label, or "error" in percent.
        steps, tuning_steps: of a run that counts, and of one that chooses a recipe.
    """

    overrides: Overrides
    family: str
    unit: str
    steps: int
    tuning_steps: int


FOLDERS = {
    "text": ("DNI_PTB", "../shared/data/ptb"),
    "mnist": ("DNI_MNIST", "../shared/data/mnist"),
    "cifar": ("DNI_CIFAR10", "../shared/data/cifar10/binary"),
}


def folder(family: str) -> Path:
    """Return the folder of a family's data, from an environment variable if it is set."""
    name, default = FOLDERS[family]
    return Path(os.environ.get(name, default))


def _mlp(layers: int, steps: int = 2000) -> Task:
    """A perceptron with one stage for each hidden layer and for the softmax layer."""
    data = ("data=mnist", f"data.path={folder('mnist')}")
    shape = (
        "model=mlp_bn",
        f"model.layers={layers}",
        f"stages={layers + 1}",
        f"model.split_points=[{_layers(layers)}]",
    )
    return Task((*data, *shape), "mnist", "error", steps, 1000)


def _layers(layers: int) -> str:
    return ",".join([*(f"layer{i}" for i in range(2, layers + 1)), "softmax"])


def _text(model: str, cuts: str, layers: int = 3, steps: int = 2000) -> Task:
    data = ("data=ptb", f"data.path={folder('text')}", "data.sequence=null")
    shape = (
        f"model={model}",
        f"model.layers={layers}",
        f"stages={cuts.count(',') + 2}",
        f"model.split_points=[{cuts}]",
    )
    return Task((*data, *shape), "text", "bits", steps, 600)


_CNN = ("model=cnn", "model.units=16", "model.layers=3", "stages=4", "model.split_points=[conv2,conv3,softmax]")

TASKS = {
    "text": _text("lstm", "lstm2,lstm3,softmax"),
    "mnist, 3 cuts": _mlp(3),
    "mnist, 6 cuts": _mlp(6),
    "cifar": Task(("data=cifar10", f"data.path={folder('cifar')}", *_CNN), "cifar", "error", 1500, 1000),
    "mnist, 8 cuts": _mlp(8, 1200),
    "text, 8 cuts": _text("lstm", ",".join([*(f"lstm{i}" for i in range(2, 9)), "softmax"]), 8, 1000),
    "transformer": _text("transformer", "transformer2,transformer3,softmax", steps=1000),
    "two clocks": Task(
        ("experiment=two_clocks", f"data.path={folder('mnist')}", "stages=2"), "mnist", "error", 2000, 1000
    ),
}

METHODS: dict[str, Overrides] = {
    "backprop": ("depth=backprop",),
    "DNI": ("depth=synthetic", "predictor=mlp", "predictor.depth.labels=false"),
    "cDNI": ("depth=synthetic", "predictor=mlp"),
    "critic": ("depth=synthetic", "predictor=critic", "predictor.depth.eager_loss=true"),
    "local": ("depth=local",),
    "delayed": ("depth=delayed",),
}


def method(name: str, family: str) -> Overrides:
    """Return the settings of a method; between feature maps, regressors are convolutional."""
    typed = METHODS[name]
    return tuple(part.replace("=mlp", "=conv") for part in typed) if family == "cifar" else typed


def settings(name: str, family: str) -> list[Overrides]:
    """Return the four settings to try: four rates, or two rates with two values of another setting."""
    rates = _RATES[family][name]
    if len(rates) == 4:
        return [(_rate(rate),) for rate in rates]
    return [(_rate(rate), other) for rate, other in product(rates, _SECOND[name])]


def _rate(rate: str) -> str:
    return f"optimizer.learning_rate={rate}"


_SECOND = {
    "DNI": ("predictor.depth.learning_rate=1e-3", "predictor.depth.learning_rate=3e-3"),
    "cDNI": ("predictor.depth.learning_rate=1e-3", "predictor.depth.learning_rate=3e-3"),
    "critic": ("predictor.depth.hidden=0", "predictor.depth.hidden=128"),
    "local": ("depth.hidden=0", "depth.hidden=128"),
}
_RATES = {
    "text": {
        "backprop": ("2e-3", "4e-3", "8e-3", "1.6e-2"), "delayed": ("1e-3", "2e-3", "4e-3", "8e-3"),
        "DNI": ("5e-4", "2e-3"), "cDNI": ("1e-3", "4e-3"), "critic": ("4e-3", "8e-3"), "local": ("4e-3", "8e-3"),
    },
    "mnist": {
        "backprop": ("5e-4", "1e-3", "2e-3", "4e-3"), "delayed": ("2.5e-4", "5e-4", "1e-3", "2e-3"),
        "DNI": ("3e-4", "1e-3"), "cDNI": ("3e-4", "1e-3"), "critic": ("1e-3", "2e-3"), "local": ("1e-3", "2e-3"),
    },
    "cifar": {
        "backprop": ("1e-3", "2e-3", "4e-3", "8e-3"), "delayed": ("5e-4", "1e-3", "2e-3", "4e-3"),
        "DNI": ("5e-4", "2e-3"), "cDNI": ("5e-4", "2e-3"), "critic": ("2e-3", "4e-3"), "local": ("2e-3", "4e-3"),
    },
}  # fmt: skip
