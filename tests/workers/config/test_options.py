"""Options: everything offered composes, and the combinations that are allowed pass the check."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import workers.conf

from tests.support.commands import settings
from workers.config.convert import from_any, to_plain
from workers.config.validation.check import check

CONF = Path(workers.conf.__path__[0])
FILES = sorted((path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.glob("*/**/*.yaml"))
OPTIONS = {group: [name for _, name in files] for group, files in itertools.groupby(FILES, lambda file: file[0])}
ALONE = [f"{group}={name}" for group, names in sorted(OPTIONS.items()) for name in names]

#: Options that need other settings than the defaults.
NEEDS = {
    "data=tokens": ["data.path=folder"],
    "data=series": ["data.path=file.csv", "loss=squared_error"],
    "loss=squared_error": ["data.path=file.csv", "data=series"],
    "data=mnist": ["model=mlp_bn"],
    "data=cifar10": ["model=cnn"],
    "model=mlp_bn": ["data=mnist"],
    "model=cnn": ["data=cifar10"],
    "model=resnet": ["data=cifar10"],
    "predictor=conv": ["data=cifar10", "model=cnn"],
    "predictor/depth=conv": ["data=cifar10", "model=cnn"],
    "data=two_clocks": ["model=two_clocks", "stages=2", "depth=multi_rate"],
    "model=two_clocks": ["data=two_clocks", "stages=2", "depth=multi_rate"],
    "time=oracle": ["data=copy", "stages=1"],
    "optimizer/schedule=step": ["optimizer.schedule.decay_steps=100", "optimizer.schedule.final=0.1"],
}

#: The method in depth whose pairs are composed in the quick tests.
QUICK = ("synthetic",)


def test_the_groups_are_those_of_the_documentation() -> None:
    assert OPTIONS.keys() == {
        "data", "depth", "experiment", "launch", "loss", "model", "optimizer", "optimizer/schedule", "predictor",
        "predictor/depth", "predictor/time", "time", "transport",
    }  # fmt: skip


@pytest.mark.parametrize("option", ["seed=0", *ALONE])
@pytest.mark.long
def test_every_option_composes_and_can_be_run(option: str) -> None:
    config = settings(option, *NEEDS.get(option, []))
    check(config)
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize(
    "depth", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in OPTIONS["depth"]]
)
def test_every_pair_of_methods_composes_and_can_be_run(depth: str) -> None:
    """All pairs of methods in depth and in time, with every transport, and with every predictor in turn."""
    predictors = [
        name for name in OPTIONS["predictor"] if name != "conv"
    ]  # conv needs images, which have no cut in time
    pairs = itertools.product(OPTIONS["time"], OPTIONS["transport"])
    for (time, transport), predictor in zip(pairs, itertools.cycle(predictors), strict=False):
        config = settings(f"depth={depth}", f"time={time}", f"transport={transport}", f"predictor={predictor}")
        if time == "oracle" or (depth == "delayed" and config.time.answers):
            continue  # refused: refused/depth.yaml, refused/time.yaml
        if time == "online" and depth in ("lambda_return", "corrected"):
            continue  # refused: refused/time.yaml
        if time in ("auxiliary", "lambda_return") and predictor == "soft_label_critic":
            continue  # refused: refused/time.yaml
        several = time in ("auxiliary", "lambda_return") or config.predictor.time.awaited_labels
        if not config.depth.updates_every_step and config.time.predicts and several:
            continue  # refused: refused/experimental.yaml
        if depth == "synthetic_inputs" and predictor == "copied_head":
            continue  # refused: refused/predictor.yaml
        if config.pipelined and (time not in ("truncated", "full") or transport == "local"):
            continue  # refused: test_pipeline_rules
        check(config)
        assert (config.depth.name, config.time.name, config.transport.name) == (depth, time, transport)
