"""Weights that travel upstream to the heads that copy them: when they arrive, how often, and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.predictors.copied_layers import CopiedLayers
from dni.predictors.head_settings import CopiedHead
from dni.stages.base import Stage
from tests.support.runs import assert_same, tiny
from workers.build.data import resolve
from workers.build.heads.copies import copied_weights
from workers.comm.edge import Target
from workers.comm.frame import Frame, Kind
from workers.config.settings import Config
from workers.launch.accept import refuse_early
from workers.launch.launcher import launch
from workers.runtime.piggyback.copied_weights import CopiedWeights, copied_specs
from workers.storage import checkpoint

TRANSPORTS = ["local", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("grpc", "torch_distributed"))]
METHODS = ["local", *(pytest.param(method, marks=pytest.mark.long) for method in ("synthetic", "corrected"))]
LAST = ["norm.bias", "norm.weight", "softmax.bias", "softmax.weight"]
ROW = torch.tensor([1.0])


def run(method: str = "local", *, lag: int | None = 1, head: dict[str, Any] | None = None, **changes: Any) -> Config:
    """Three stages: an embedding with a block, two blocks, a norm with the scores after a block."""
    model = {"kind": "transformer", "heads": 2, "memory": 4, "layers": 4}
    return tiny(**{
        "stages": 3, "steps": 8, "model": model, "depth": {"method": method, "lag": lag},
        "predictor": {"depth": {"kind": "copied_head", "copy_every": 1, **(head or {})}},
        "optimizer": {"schedule": {"kind": "constant"}}, **changes,
    })  # fmt: skip


def copies(folder: Path, step: int, stage: int) -> dict[str, Tensor]:
    """Return the weights in a head at a checkpoint, by their names there."""
    state = checkpoint.load(folder, step, stage, 3)["depth"]
    weights = state["head"] if "head" in state else state["predictor"]
    return {name.removeprefix("head."): each for name, each in weights.items()}


def sender(**settings: Any) -> CopiedWeights:
    """Return what rides along at a stage with one weight, 1, which passes another one on."""
    module = nn.Sequential()
    module.add_module("own", nn.Linear(1, 1, bias=False))
    nn.init.ones_(module[0].weight)
    stage = Stage(module, torch.optim.SGD(module.parameters(), 1.0))
    head = CopiedLayers({"later": nn.Linear(1, 1, bias=False)}, (1,))
    return CopiedWeights(stage, [head], ["own.weight", "later.weight"], CopiedHead(**settings))


def step(number: int, kind: Kind = Kind.STEP) -> Frame:
    return Frame(kind, number)


def test_a_stage_sends_its_weights_with_the_first_reply_and_every_so_many_steps() -> None:
    riding, sent = sender(copy_every=3), []
    for number in range(1, 9):
        riding.received(step(number))
        sent.append(bool(riding.reply()))
    assert sent == [number in (1, 4, 7) for number in range(1, 9)]
    riding.received(step(10, Kind.CHECKPOINT))
    assert riding.reply() == {}
    assert riding.figures() == {"copied_bytes": 3 * 4}


def test_it_passes_on_once_what_comes_from_later_stages() -> None:
    riding = sender()
    riding.received(step(2))
    riding.returned(Target(1, None, piggybacked={"copied.later.weight": 5 * ROW[:, None], "norm": ROW}))
    assert {name: each.item() for name, each in riding.reply().items()} == {"copied.later.weight": 5.0}
    assert riding.reply() == {}


def test_the_first_copy_replaces_the_weights_and_later_ones_are_averaged() -> None:
    """By hand: 8, then 0.75 * 8 + 0.25 * 4 = 7; a resumed stage goes on averaging."""
    riding, found = sender(momentum=0.75), []
    resumed = sender(momentum=0.75)
    for value in (8.0, 4.0):
        riding.returned(Target(1, None, piggybacked={"copied.later.weight": torch.tensor([[value]])}))
        found.append(riding.heads[0].get_parameter("layers.0.weight").item())
    assert found == [8.0, 7.0]
    resumed.load_state_dict(riding.state_dict())
    resumed.heads[0].load_state_dict(riding.heads[0].state_dict())
    resumed.returned(Target(1, None, piggybacked={"copied.later.weight": torch.tensor([[3.0]])}))
    assert resumed.heads[0].get_parameter("layers.0.weight").item() == 6.0


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("method", METHODS)
def test_with_a_lag_a_head_has_the_weights_of_a_fixed_step(method: str, transport: str, tmp_path: Path) -> None:
    """Weights of step s, before its update, are copied at step s + lag, and one edge further at s + lag + 1 + lag.

    Without the 1 for depth=corrected, which takes replies before it sends its own.
    """
    launch(run(method, transport={"kind": transport}, checkpoint={"every": 1, "keep": 20}), tmp_path)
    for stage, late in ((1, 1), (0, 2 if method == "corrected" else 3)):
        head, trained = copies(tmp_path, 8, stage), checkpoint.load(tmp_path, 8 - late - 1, 2, 3)["stage"]["module"]
        places = {
            "norm.weight": "layers.0.weight",
            "softmax.weight": "layers.1.weight",
            "softmax.bias": "layers.1.bias",
        }
        assert_same({name: head[place] for name, place in places.items()}, {name: trained[name] for name in places})
        assert not torch.equal(head["scale"], torch.ones(8))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_equals_one_that_went_on(method: str, transport: str, tmp_path: Path) -> None:
    plan: dict[str, Any] = {
        "transport": {"kind": transport},
        "head": {"copy_every": 2, "momentum": 0.5, "layers": 1},
    }
    launch(run(method, steps=8, **plan), tmp_path / "whole")
    launch(run(method, steps=5, **plan), tmp_path / "half")
    launch(run(method, steps=8, resume=str(tmp_path / "half"), **plan), tmp_path / "resumed")
    for stage in range(3):
        whole, resumed = (checkpoint.load(tmp_path / name, 8, stage, 3) for name in ("whole", "resumed"))
        assert_same(whole["stage"]["module"], resumed["stage"]["module"])
    for stage in range(2):
        assert_same(copies(tmp_path / "whole", 8, stage), copies(tmp_path / "resumed", 8, stage))


@pytest.mark.parametrize("layers", [0, 1])
def test_bytes_of_copies_are_counted(layers: int, tmp_path: Path) -> None:
    """Every other step of 8; with a lag of 1 the middle stage passes on those of steps 1, 3 and 5, at 3, 5 and 7."""
    config = run(head={"copy_every": 2, "layers": layers})
    stages = launch(config, tmp_path).summary["stage"]
    config, _ = resolve(config)
    own = [sum(each.nbytes for name, each in copied_weights(config, k).items() if _trained_by(tmp_path, k, name))
           for k in range(3)]  # fmt: skip
    last = sum(each.nbytes for name, each in copied_weights(config, 2).items() if name in LAST)
    block = own[2] - last
    assert (own[1] > 0) == (block > 0) == bool(layers)
    assert [stage.get("copied_bytes", 0) for stage in stages] == [0, 4 * own[1] + 3 * last, 4 * own[2]]


def _trained_by(folder: Path, stage: int, name: str) -> bool:
    return name in checkpoint.load(folder, 8, stage, 3)["stage"]["module"]


def test_weights_cross_the_edges_to_the_heads_that_copy_them() -> None:
    config, _ = resolve(run(head={"layers": 1}))
    names = [sorted({name.split(".")[1] for name in copied_specs(config, k)}) for k in range(3)]
    (first,), (second,) = ([name for name in names[k] if name.startswith("transformer")] for k in (1, 2))
    assert names == [[], ["norm", "softmax", first], ["norm", "softmax", second]]
    other, _ = resolve(run("backprop", lag=None))
    assert [copied_specs(other, k) for k in range(3)] == [{}, {}, {}]


@pytest.mark.parametrize("lag", [None, 2])
@pytest.mark.parametrize("method", ["irregular", "lambda_return", "multi_rate", "replay"])
@pytest.mark.long
def test_heads_of_experimental_methods_are_copied_to(method: str, lag: int | None, tmp_path: Path) -> None:
    depth = {"method": method, "lag": lag, "max_in_flight": 6} | (
        {"update_periods": [1, 2, 2]} if method == "multi_rate" else {}
    )
    launch(run(depth=depth), tmp_path)
    state = checkpoint.load(tmp_path, 8, 0, 3)
    assert {*state["piggyback"]["copied"]["known"]} >= {*LAST}


def test_values_that_the_last_layers_cannot_take_are_refused() -> None:
    config = run(data={"kind": "mnist"}, model={"kind": "cnn", "units": 4, "layers": 2})
    config.model.symbols, config.model.input_symbols, config.model.input_shape = 10, 0, [1, 12, 12]
    with pytest.raises(ConfigError, match=r"softmax cannot take the values \(4, 6, 6\) that leave stage 0.*block_head"):
        refuse_early(config)
