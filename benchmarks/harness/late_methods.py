"""The comparison under late gradients: tasks, methods, and the settings that each method tries.

`corrected` has a linear classifier at every cut; "every 3rd step" corrects the predictions of these steps alone, with a
larger beta; with a match it is also fitted to the late target, as `critic` is.
With a large head it chooses from the heads of local losses. Every method tries four settings per family of tasks; the
one with the best validation figure after the family's short run, on a seed that no result is made with, is its recipe.
Nothing here has seen a test split.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from benchmarks.harness.cells import TUNING_SEED, Comparison
from benchmarks.harness.grid import Grid
from benchmarks.harness.methods import TASKS as EARLIER
from benchmarks.harness.methods import Overrides, Task, folder

#: A GPT of characters, in nanoGPT's configuration for a CPU.
GPT = Path(__file__).parents[2] / "examples" / "char_gpt"
#: The optimizer of a family, for methods that do not name one themselves.
OPTIMIZERS: dict[str, Overrides] = {"gpt": ("optimizer=adamw", "optimizer.weight_decay=0.01")}


def _gpt(layers: int, *more: str, data: Overrides, steps: int = 2000) -> Task:
    shape = (f"model.layers={layers}", f"stages={layers}", "model.deviation=0.05", "data.window=64", *more)
    schedule = ("optimizer/schedule=cosine", "optimizer.schedule.final=0.1", "optimizer.schedule.warmup_steps=100")
    return Task(("model._target_=gpt.parts", *data, "data.sequence=null", *shape, *schedule), "gpt", "bits", steps, 500)


_RESNET = (
    "model=resnet", "model.units=16", "model.layers=1", "stages=4", "model.split_points=[block2,block3,softmax]",
    "data.flip=true", "data.crop_padding=4", "optimizer/schedule=cosine",
)  # fmt: skip
_PTB = ("data=ptb", f"data.path={folder('text')}", "data.batch=12")
TASKS = {
    "gpt, 4 stages": _gpt(4, data=_PTB),
    "text": EARLIER["text"],
    "mnist, 3 cuts": EARLIER["mnist, 3 cuts"],
    "mnist, 6 cuts": EARLIER["mnist, 6 cuts"],
    "cifar": EARLIER["cifar"],
    "residual net": Task(("data=cifar10", f"data.path={folder('cifar')}", *_RESNET), "cifar", "error", 10_000, 1500),
    "gpt, 8 stages": _gpt(8, data=_PTB),
    "gpt, small text": _gpt(4, "model.width=96", data=("data=text", "data.batch=16"), steps=2400),
}

#: Delayed gradients with the recipe that is best at lag 1, where they are strongest.
EARLY = "delayed tuned at lag 1"
_LINEAR = ("predictor=critic", "predictor.depth.eager_loss=true")
_HEAD_ONLY = (*_LINEAR, "predictor.depth.gradient_weight=0")
_FADING = (*_LINEAR, "predictor.depth.staleness_decay=1")
METHODS: dict[str, Overrides] = {
    "backprop": ("depth=backprop",),
    "local": ("depth=local",),
    "local + linear head": ("depth=local",),
    "corrected": ("depth=corrected", *_HEAD_ONLY),
    "corrected every 3rd step": ("depth=corrected", "depth.correct_every=3", "depth.beta=0.5", *_HEAD_ONLY),
    "corrected + match": ("depth=corrected", *_FADING),
    "corrected + large head": ("depth=corrected",),
    "critic": ("depth=synthetic", *_FADING),
    "cDNI": ("depth=synthetic", "predictor=mlp"),
    "delayed": ("depth=delayed",),
    EARLY: ("depth=delayed",),
}
#: Corrected gradients; bars are about the first one.
CORRECTED = ("corrected", "corrected every 3rd step", "corrected + match", "corrected + large head")


def method(name: str, family: str) -> Overrides:
    """Return the settings of a method; between feature maps, regressors are convolutional."""
    typed = METHODS[name]
    return tuple(part.replace("=mlp", "=conv") for part in typed) if family == "cifar" else typed


def settings(name: str, family: str) -> list[Overrides]:
    """Return the four settings to try: rates, or two rates with two values of another setting."""
    rates = _RATES[family]
    usual = OPTIMIZERS.get(family, ())
    if name == "delayed":  # a lower rate, and one of two optimizers that are meant for late gradients
        lower = [f"{float(rate) / 4:g}" for rate in rates[:2]]
        return [(_rate(rate), *optimizer) for rate, optimizer in product(lower, _PATIENT)]
    if name == EARLY:
        return [(_rate(rate), *optimizer) for optimizer, rate in product((usual, _PATIENT[1]), rates[:2])]
    if family == "gpt" and name in ("backprop", "local", "local + linear head", *CORRECTED[:2], CORRECTED[-1]):
        head = _BLOCK if name in ("local", "corrected + large head") else ()
        return [(_rate(rate), *usual, *head, beta2) for rate, beta2 in product(rates[1:3], _BETA2)]
    if name in ("local", "corrected + large head"):
        return [(_rate(rate), *usual, *head) for head, rate in _HEADS[family]]
    if name == "corrected + match" and family != "gpt":
        return [(_rate(rate), *head) for head, rate in product((("predictor.depth.hidden=0",), _MATCHED), rates[1:3])]
    if name in _SECOND:
        return [(_rate(rate), *usual, other) for rate, other in product(rates[1:3], _SECOND[name])]
    return [(_rate(rate), *usual) for rate in rates]


def _rate(rate: str) -> str:
    return f"optimizer.learning_rate={rate}"


_BLOCK, _PERCEPTRON = ("predictor=block_head",), ("predictor=norm_head", "predictor.depth.hidden=256")
_MATCHED = (*_PERCEPTRON, "predictor.depth.gradient_weight=1")
_PATIENT: tuple[Overrides, ...] = (("optimizer=nesterov",), ("optimizer=nesterov", "optimizer.beta1_last=0.9"))
_BETA2 = ("optimizer.beta2=0.99", "optimizer.beta2=0.999")
_SECOND = {
    **dict.fromkeys(("critic", "corrected + match"), ("predictor.depth.hidden=0", "predictor.depth.hidden=128")),
    "cDNI": ("predictor.depth.learning_rate=1e-3", "predictor.depth.learning_rate=3e-3"),
}
_RATES = {
    "gpt": ("1.5e-3", "3e-3", "6e-3", "1.2e-2"),
    "text": ("2e-3", "4e-3", "8e-3", "1.6e-2"),
    "mnist": ("5e-4", "1e-3", "2e-3", "4e-3"),
    "cifar": ("1e-3", "2e-3", "4e-3", "8e-3"),
}

#: Heads of local losses and of corrections, with the rates to try.
_HEADS = {family: list(product((_PERCEPTRON, _BLOCK), _RATES[family][1:3])) for family in ("text", "mnist", "cifar")}
#: What `benchmarks.harness.tuning` needs to choose recipes.
COMPARED = Comparison(
    TASKS, method, settings, (*CORRECTED, "critic", "cDNI", "delayed", EARLY),
    Grid("late-tuning", "late_tuning", {"seed": TUNING_SEED}, ("depth_tuning",)),
)  # fmt: skip
