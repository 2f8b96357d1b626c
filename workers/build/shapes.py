"""What goes from stage to stage, found by running the model once: any model has its shapes known that way.

It is run for real, on the CPU and on one short example: torch's meta device would load 80 MB of modules into every
worker.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dni.errors import ConfigError, UsageError
from dni.named_tensors import UNNAMED, Value, named
from dni.recurrent import Chain
from workers.build.model import build_chains
from workers.build.own_code import failures_named
from workers.comm.contents import TensorSpec
from workers.config.settings import Config

#: Steps of the example; a model must take windows of any length.
_STEPS = 2


def activation_specs(config: Config, index: int) -> dict[str, TensorSpec]:
    """Return the tensors of a stage's output, by name; of a single tensor the name is "".

    The stage is run on windows of two lengths: sizes that differ change with T.
    """
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)[: index + 1]
        short = named(_output(config, chains))
        if not config.data.sequences:
            return {name: TensorSpec(tuple(each.shape[1:]), each.dtype) for name, each in short.items()}
        if [*short] == [UNNAMED]:  # has a row for every label, or `refuse_misfit` refuses it
            return {UNNAMED: TensorSpec(tuple(short[UNNAMED].shape[2:]), short[UNNAMED].dtype)}
        long = named(_output(config, chains, more=1))
    return {name: _spec(each, long[name]) for name, each in short.items()}


def activation_shape(config: Config, index: int) -> tuple[int, ...]:
    """Return the shape of one example, or of one time step, of the one tensor that a stage sends: (D,) or (C, H, W).

    Raises ConfigError for a stage that sends named tensors.
    """
    specs = activation_specs(config, index)
    if UNNAMED not in specs:
        raise ConfigError(
            f"model={config.model.name}: stage {index} sends the tensors {', '.join(specs)}, where one tensor is needed"
        )
    return tuple(size or 0 for size in specs[UNNAMED].shape)


def _spec(short: Tensor, long: Tensor) -> TensorSpec:
    rows = short.dim() > 1 and short.shape[1] < long.shape[1]
    start = 2 if rows else 1
    sizes = zip(short.shape[start:], long.shape[start:], strict=True)
    return TensorSpec(tuple(size if size == other else None for size, other in sizes), short.dtype, rows)


def refuse_misfit(config: Config) -> None:
    """Raise ConfigError for a model whose layers do not go together, or whose answers are not what is asked for."""
    model, data = config.model, config.data
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        carries = any(chain.initial_state(1) for chain in chains)
        output = _output(config, chains)
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"model={model.name}: its last layer returns the tensors {', '.join(output)}, and must return the scores "
            "alone"
        )
    shape = [*output.shape]
    if carries != model.carries_state:
        raise ConfigError(
            f"model={model.name}: its layers {'do' if carries else 'do not'} carry state: write carries_state = "
            f"{carries} in {type(model).__name__}"
        )
    steps = [1 if model.one_answer else _steps(config)] if data.sequences else []
    wanted = [1, *steps, model.symbols]
    if shape != wanted:
        raise ConfigError(
            f"model={model.name} gives scores of shape {shape} for an example of shape {[*_example(config).shape]}, "
            f"where data={data.name} needs {wanted}: its last layer must give a number for each of {model.symbols} "
            f"labels{' at every step' if steps and not model.one_answer else ''}"
        )


def refuse_named_tensors(config: Config) -> None:
    """Raise ConfigError for settings that need one tensor at every cut, where a stage sends several."""
    cuts = range(config.parts - 1)
    several = {index: specs for index in cuts if UNNAMED not in (specs := activation_specs(config, index))}
    if not several:
        return
    index, specs = next(iter(several.items()))
    sent = f"model={config.model.name}: stage {index} sends the tensors {', '.join(specs)}"
    if not any(spec.dtype.is_floating_point for spec in specs.values()):
        raise ConfigError(f"{sent}, none of which has a gradient: send a floating-point tensor, or cut elsewhere")
    if not config.depth.named_tensors:
        raise ConfigError(
            f"{sent}, and depth={config.depth.name} needs one tensor: use depth=synthetic, local, delayed or backprop, "
            "or set model.split_points to layers that take one tensor"
        )
    if config.chunk is not None:
        raise ConfigError(f"{sent}, and time={config.time.name} needs one tensor: use time=full")
    if config.evaluate.probe is not None:
        raise ConfigError(f"{sent}, and probes need one tensor: set evaluate.probe=null")


@torch.no_grad()
def _output(config: Config, chains: list[Chain], more: int = 0) -> Value:
    """Return the output of the last of these parts. Raises ConfigError for one that cannot take its input."""
    x: Value = _example(config, more)
    for chain in chains:
        what = f"model={config.model.name}: {', '.join(chain._modules)} cannot take an input of shape {_shapes(x)}"
        try:
            with failures_named(what):
                x, _ = chain.eval()(x, chain.initial_state(1))
        except UsageError as error:
            raise ConfigError(f"model={config.model.name}: {error}") from error
    return x


def _shapes(value: Value) -> str:
    found = {name: [*each.shape] for name, each in named(value).items()}
    return str(found[UNNAMED]) if isinstance(value, Tensor) else str(found)


def _example(config: Config, more: int = 0) -> Tensor:
    """Return a batch of one: (1, T) symbols, (1, T, D) vectors, (1, D) or (1, C, H, W); T is `more` steps longer."""
    shape = tuple(config.model.input_shape or ())
    steps = (_steps(config) + more,) if config.data.sequences else ()
    return torch.zeros(1, *steps, *shape, dtype=torch.get_default_dtype() if shape else torch.int64)


def _steps(config: Config) -> int:
    return min(_STEPS, config.window)
