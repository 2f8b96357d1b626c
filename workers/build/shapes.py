"""Find the shapes of activations by running the model on one short example, which works for any model.

The run is on the CPU: torch's meta device would load 80 MB of modules into every worker.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from dni.errors import ConfigError, UsageError
from dni.named_tensors import UNNAMED, Value, batch_of, named
from dni.recurrent import Chain
from workers.build.example import example, real_example
from workers.build.model import build_chains
from workers.build.own_code import as_config_error
from workers.build.trace import is_traced
from workers.comm.contents import Rows, TensorSpec
from workers.comm.header import can_send
from workers.config.convert import to_plain
from workers.config.settings import Config

#: Time steps of the example; a model must accept windows of any length.
_STEPS = 2

#: The tensors at every cut, for the newest settings: a start asks often, and to find them the whole model is built.
_NEWEST: dict[str, list[dict[str, TensorSpec]]] = {}

#: Stages may be threads.
_ALONE = Lock()
#: Rows of a second example, which has one time step more; no number of steps grows from 1 to so many.
_ROWS = 3


def activation_specs(config: Config, index: int) -> dict[str, TensorSpec]:
    """Return the tensors of a stage's output, by name; of a single tensor the name is ""."""
    key = repr(to_plain(config))
    with _ALONE:
        if key not in _NEWEST:
            _NEWEST.clear()
            _NEWEST[key] = _specs_of_cuts(config)
        return _NEWEST[key][index]


def forget_specs() -> None:
    """Find the tensors at the cuts anew when they are next asked for: the code of a model may have changed."""
    with _ALONE:
        _NEWEST.clear()


def _specs_of_cuts(config: Config) -> list[dict[str, TensorSpec]]:
    """Return the tensors of the output of every stage but the last.

    The stages are run on windows of two lengths: sizes that differ change with T.
    """
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)[:-1]
        if any(is_traced(chain) for chain in chains):
            real = real_example(config)  # one tensor
            leading = real.shape[: _leading(config)]
            return [
                {name: _fixed_spec(config, each, leading) for name, each in named(value).items()}
                for value in _outputs(config, chains, real)
            ]
        short = _outputs(config, chains, example(config, 1, _steps(config)))
        if all(isinstance(value, Tensor) for value in short):  # a row for every label, or `refuse_misfit` refuses it
            return [_plain_spec(config, value) for value in short]
        long = _outputs(config, chains, example(config, _ROWS, _steps(config) + 1))
    return [_specs(config, *values) for values in zip(short, long, strict=True)]


def _specs(config: Config, short: Value, long: Value) -> dict[str, TensorSpec]:
    if isinstance(short, Tensor):
        return _plain_spec(config, short)
    return {name: _spec(config, each, long[name]) for name, each in short.items()}


def _plain_spec(config: Config, value: Tensor) -> dict[str, TensorSpec]:
    return {UNNAMED: TensorSpec(tuple(value.shape[_leading(config) :]), value.dtype)}


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


def example_at(config: Config, chains: list[Chain], shape: tuple[int, ...]) -> Tensor:
    """Return zeros as a value at a cut, with a row of this shape for every label; `chains` are the model's parts."""
    traced = any(is_traced(chain) for chain in chains)
    sizes = tuple(next(iter(named(real_example(config)).values())).shape) if traced else (1, _steps(config))
    return torch.zeros(*sizes[: _leading(config)], *shape)


def _leading(config: Config) -> int:
    """Return how many sizes of a value with a row for every label come before those of the row: B, or B and T."""
    return 2 if config.data.sequences else 1


def _spec(config: Config, short: Tensor, long: Tensor) -> TensorSpec:
    """Return what is common to the outputs for one example and for `_ROWS` examples that are a step longer."""
    sizes = [*zip(short.shape, long.shape, strict=True)]
    batched = sizes[:1] == [(1, _ROWS)]
    rows = batched and sizes[1:2] == [(_steps(config), _steps(config) + 1)]
    start = batched + rows
    fixed = tuple(size if size == other else None for size, other in sizes[start:])
    return TensorSpec(fixed, short.dtype, _rows(config, start))


def _fixed_spec(config: Config, tensor: Tensor, leading: tuple[int, ...]) -> TensorSpec:
    """Return the sizes of a traced model's tensor; `leading`: (B, T) or (B,)."""
    start = next((n for n in range(len(leading), 0, -1) if tuple(tensor.shape[:n]) == leading[:n]), 0)
    return TensorSpec(tuple(tensor.shape[start:]), tensor.dtype, _rows(config, start))


def _rows(config: Config, leading: int) -> Rows:
    return Rows.NONE if not leading else Rows.LABELS if leading == _leading(config) else Rows.EXAMPLES


def refuse_misfit(config: Config) -> None:
    """Raise ConfigError if the model's layers do not fit each other, or its outputs do not fit the labels."""
    model, data = config.model, config.data
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        has_state = any(chain.initial_state(1) for chain in chains)
        traced = any(is_traced(chain) for chain in chains)
        start = real_example(config) if traced else example(config, 1, _steps(config))
        output = _outputs(config, chains, start)[-1]
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"model={model.name}: its last layer returns the tensors {', '.join(output)}, and must return the scores "
            "alone"
        )
    if not output.is_floating_point():
        raise ConfigError(f"model={model.name} gives scores in {output.dtype}: its last layer must give float numbers")
    shape = [*output.shape]
    if has_state != model.carries_state:
        raise ConfigError(
            f"model={model.name}: its layers {'do' if has_state else 'do not'} carry state: write carries_state = "
            f"{has_state} in {type(model).__name__}"
        )
    every = config.window if traced else _steps(config)
    steps = [1 if model.one_answer else every] if data.sequences else []
    expected = [batch_of(start), *steps, model.symbols]
    if shape != expected:
        raise ConfigError(
            f"model={model.name} gives scores of shape {shape} for an example of shape {_shapes(start)}, "
            f"where data={data.name} needs {expected}: its last layer must give a number for each of {model.symbols} "
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
def _outputs(config: Config, chains: list[Chain], x: Value) -> list[Value]:
    """Return the output of each of these parts. Raises ConfigError for one that cannot take its input."""
    found, model = list[Value](), f"model={config.model.name}"
    for chain in chains:
        if found:
            _refuse_value(config, len(found) - 1, x)
        failed = f"{model}: {', '.join(chain._modules)} cannot take an input of shape {_shapes(x)}"
        with as_config_error(failed, "; a part must take what the part before it returns"):
            try:
                x, _ = chain.eval()(x, chain.initial_state(batch_of(x)))
            except UsageError as error:  # of its output
                raise ConfigError(f"{model}: {error}") from error
        found.append(x)
    return found


def _refuse_value(config: Config, stage: int, value: Value) -> None:
    """Raise ConfigError for the output of a stage that cannot be sent to the next one."""
    sent = f"model={config.model.name}: stage {stage} sends"
    for name, tensor in named(value).items():
        if not can_send(tensor):
            kind = f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
            raise ConfigError(
                f"{sent} {f'the tensor {name}' if name else 'a tensor'}, which is {kind} and cannot cross a cut: "
                "return dense real tensors (torch.view_as_real, to_dense), or set model.split_points to cut elsewhere"
            )
    first = next(iter(named(value).values()))
    if not first.dim():
        raise ConfigError(f"{sent} a number as its first tensor: return one whose first size is that of the batch")


def _shapes(value: Value) -> str:
    found = {name: [*each.shape] for name, each in named(value).items()}
    return str(found[UNNAMED]) if isinstance(value, Tensor) else str(found)


def _steps(config: Config) -> int:
    return _STEPS if config.data.varies else min(_STEPS, config.window)
