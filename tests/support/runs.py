"""Small runs for tests, and plain training to compare them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from dni.losses import summed_cross_entropy
from dni.models import Lstm, Model
from dni.recurrent import reset_streams
from tests.support.options import spelled_out
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.convert import from_any
from workers.config.plugins import find
from workers.config.settings import Config
from workers.storage import checkpoint

TINY: dict[str, Any] = {
    "steps": 10, "stages": 2, "log_every": 5,
    "model": {"units": 8, "layers": 3},
    "data": {"batch": 4, "window": 6, "sequence": 18},
    "transport": {"kind": "local", "timeout_s": 30},
    "launch": {"mode": "threads", "torch_threads": 1},
    "evaluate": {"every": 4, "windows": 2},
    "checkpoint": {"every": None},
}  # fmt: skip


def tiny(**changes: Any) -> Config:
    """Return the tiny run with changed settings, by section: `tiny(stages=3, depth={"method": "backprop"})`."""
    settings = spelled_out(changes)
    return from_any(OmegaConf.merge(_defaults(settings.get("model", {}).get("_target_")), settings))


def _defaults(model: str | None) -> dict[str, Any]:
    """Return the settings of the tiny run, without model fields that this model lacks."""
    cls = Lstm if model is None else find("model", Model, model)
    known = {each.name for each in fields(cls)}
    return {**spelled_out(TINY), "model": {key: value for key, value in TINY["model"].items() if key in known}}


def parameters_of(run_dir: Path, stages: int) -> dict[str, Tensor]:
    """Return all parameters in the newest checkpoint of a run, by their names in the whole model."""
    step = checkpoint.complete_steps(run_dir)[-1]
    parameters: dict[str, Tensor] = {}
    for k in range(stages):
        parameters |= checkpoint.load(run_dir, step, k)["stage"]["module"]
    return parameters


def plain_training(
    config: Config,
    rate: Callable[[int], float] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = summed_cross_entropy,
) -> dict[str, Tensor]:
    """Train the unsplit model by plain backpropagation and return its parameters.

    Gradients are clipped per stage, and the layers of each stage have their own random state.

    Args:
        config: settings of the run.
        rate: learning rate of step 1, 2, ...; None: constant.
        loss: summed loss of outputs and labels.
    """
    config, opened = resolve(config)
    chains = build_chains(config)
    whole = nn.ModuleList(chains)
    optimizer = config.optimizer.build(whole.parameters())
    states = [chain.initial_state(config.data.batch) for chain in chains]
    random_states = [torch.Generator().manual_seed(1000 * config.seed + k).get_state() for k in range(len(chains))]
    for step in range(1, config.steps + 1):
        window = opened.train.next()
        for group in optimizer.param_groups if rate else ():
            group["lr"] = rate(step)
        x = window.inputs
        for k, chain in enumerate(chains):
            torch.set_rng_state(random_states[k])
            x, after = chain(x, reset_streams(states[k], window.reset))
            random_states[k] = torch.get_rng_state()
            states[k] = tuple(s.detach() for s in after)
        loss(x, window.labels).backward()
        if step % config.optimizer.accumulate:
            continue
        for chain in chains:
            for parameter in chain.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(config.optimizer.accumulate * window.labels.numel())
            if config.optimizer.clip is not None:
                nn.utils.clip_grad_norm_(chain.parameters(), config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Assert equal names, and values that are equal bit for bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, f"different: {different}"


def assert_near(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Assert equal names, and values that are equal up to the summation order of a GPU."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], within: float = 1e-6) -> None:
    """Assert equal names, and values that differ by less than `within`."""
    assert a.keys() == b.keys()
    assert max((a[name] - b[name]).abs().max().item() for name in a) < within
