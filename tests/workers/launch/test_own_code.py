"""A user's model, data, loss and metric, in a folder of their own: the same run in threads, processes and torchrun."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Command, summary_of
from tests.support.runs import assert_same, parameters_of

HERE = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "workers")
COMMAND = (sys.executable, "-m", "workers")

OWN = (
    "model._target_=my_project.counting.Counter", "model.split_points=[scores]", "model.width=5",
    "data._target_=my_project.counting.Bits", "data.bits=2", "data.batch=4", "data.window=6", "data.sequence=18",
    "loss._target_=my_project.smoothed.Smoothed", "loss.share=0.1",
    "metrics=[{_target_: my_project.hit_rate.Recall, of: 1}]",
    "stages=2", "steps=8", "log_every=1", "evaluate.every=4", "evaluate.windows=2", "launch.torch_threads=1",
)  # fmt: skip
METHODS = {
    "backprop": ("depth=backprop",),
    "synthetic": ("depth=synthetic", "depth.lag=1", "predictor=mlp", "predictor.depth.warmup=0"),
}
LAUNCHES = {
    "threads": (COMMAND, ("transport=local", "launch=threads")),
    "processes": (COMMAND, ("transport=grpc", "launch=processes")),
    "external": (TORCHRUN, ("transport=grpc", "launch=external")),
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with the package `my_project`, which is neither installed nor in this repository."""
    package = tmp_path / "elsewhere" / "my_project"
    package.mkdir(parents=True)
    for name in ("counting.py", "smoothed.py", "hit_rate.py"):
        shutil.copy(HERE / "plugin" / name, package)
    return package.parent


def figures(run_dir: Path) -> list[Any]:
    """Return what every stage measured, in a canonical order."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    measured = (r for r in records if r["kind"] in ("train", "valid"))
    return sorted((r["kind"], r["step"], r["stage"], str(r.get("loss")), str(r.get("metrics"))) for r in measured)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", METHODS)
def test_every_launch_gets_the_same_losses_and_parameters(method: str, elsewhere: Path, tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(elsewhere)}
    for name, (program, how) in LAUNCHES.items():
        words = (*OWN, *METHODS[method], *how, f"hydra.run.dir={name}")
        with Command(tmp_path, words, program, path) as command:
            done = command.finish(within=180)
        assert done.code == 0, done.err
        assert summary_of(tmp_path / name)["launch"] == name
    measured = figures(tmp_path / "threads")
    assert {kind for kind, *_ in measured} == {"train", "valid"}
    assert any("recall_1" in metrics for *_, metrics in measured)
    for name in ("processes", "external"):
        assert_same(parameters_of(tmp_path / name, 2), parameters_of(tmp_path / "threads", 2))
        assert figures(tmp_path / name) == measured
