"""depth=corrected in workers against a reference by its definition, with copies of all stages at every step."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.losses import cross_entropy_gradient
from dni.methods.synthetic import Synthetic
from dni.recurrent import reset_streams
from tests.support.runs import assert_close, parameters_of, tiny
from workers.build.data import resolve
from workers.build.interfaces import depth_interface
from workers.build.stage import build_stage
from workers.config.settings import Config
from workers.launch.launcher import launch

BETA = 0.4


def reference(config: Config) -> dict[str, Tensor]:
    """Train as the definition says: the gradient of today, and BETA times the error of `lag` steps ago."""
    config, opened = resolve(replace(config, depth=Synthetic(max_in_flight=4, lag=config.depth.lag)))
    stages = [build_stage(config, k) for k in range(config.stages)]
    cuts = [depth_interface(config, k, stage) for k, stage in enumerate(stages)]
    chains, lag = [stage.module for stage in stages], config.depth.lag or 0
    states = [chain.initial_state(config.data.batch) for chain in chains]
    passed: dict[tuple[int, int], tuple[list[nn.Parameter], Tensor, Tensor]] = {}  # weights, output, gradient used
    targets: dict[tuple[int, int], Tensor] = {}
    for step in range(1, config.steps + 1):
        window = opened.train.next()
        x = window.inputs
        for k, chain in enumerate(chains):
            version, leaf = copy.deepcopy(chain), x.detach().requires_grad_(k > 0)
            x, after = version(leaf, reset_streams(states[k], window.reset))
            states[k] = tuple(s.detach() for s in after)
            if k == config.stages - 1:
                used = cross_entropy_gradient(x, window.labels)[1]
            else:
                used = cuts[k].gradient(step, x.detach(), window.labels)
            passed[k, step] = list(version.parameters()), x, used
            if k:
                (targets[k - 1, step],) = torch.autograd.grad(x, leaf, used, retain_graph=True)
        for k, chain in enumerate(chains):
            weights, output, used = passed[k, step]
            sums = torch.autograd.grad(output, weights, used, retain_graph=True)
            if (k, step - lag) in targets:
                weights, output, then = passed[k, step - lag]
                error = targets[k, step - lag] - then
                more = torch.autograd.grad(output, weights, BETA * error, retain_graph=True)
                sums = tuple(a + b for a, b in zip(sums, more, strict=True))
            for parameter, total in zip(chain.parameters(), sums, strict=True):
                parameter.grad = total / window.labels.numel()
            nn.utils.clip_grad_norm_(chain.parameters(), config.optimizer.clip or float("inf"))
            stages[k].optimizer.step()
            if (k, step - lag) in targets:
                cuts[k].target(step - lag, targets[k, step - lag])
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize(
    ("model", "predictor"),
    [
        ({"kind": "lstm"}, {"kind": "critic", "eager_loss": True, "warmup": 0}),
        ({"kind": "transformer", "heads": 2, "memory": 4}, {"kind": "block_head", "gradient_weight": 0.5}),
    ],
)
def test_workers_follow_the_definition(
    model: dict[str, Any], predictor: dict[str, Any], lag: int, tmp_path: Path
) -> None:
    depth = {"method": "corrected", "max_in_flight": 4, "lag": lag, "beta": BETA}
    config = tiny(stages=3, model={"layers": 3, **model}, depth=depth, predictor={"depth": predictor})
    launch(config, tmp_path)
    assert_close(parameters_of(tmp_path, 3), reference(config), within=1e-5)
