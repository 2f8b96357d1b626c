"""`dni-evaluate`: measure a trained run once on its test or validation split, in one process."""

from __future__ import annotations

import argparse
import json
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dni import __version__
from dni.data.base import Data
from dni.data.source import Source
from dni.data.window import Window, split_labels
from dni.errors import CheckpointError, ConfigError, DniError
from dni.loss_function import LossFunction
from dni.metrics import bits
from dni.recurrent import Chain
from dni.stages.base import Stage
from workers.build.data import resolve
from workers.build.device import device_of
from workers.build.model import build_chains
from workers.comm.frame import Frame, Kind
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.resume.choice import choose
from workers.resume.resume import differences
from workers.runtime.update_period import UpdatePeriod
from workers.storage import checkpoint
from workers.storage.record import read_record
from workers.system.errors import about, as_refusal, refusals_named
from workers.tracking.summary import finite


def evaluate(run_dir: Path, split: str | None = None, step: str | None = None) -> dict[str, Any]:
    """Measure one checkpoint of a run; write `evaluation-SPLIT.json` into its folder and return its content.

    Args:
        run_dir: the run's folder
        split: valid or test; default: test if the data has one
        step: a number, best or last; default: best if it is known and saved

    The split is read once, sequences in whole batches only. State is carried across windows as in training's validation
    passes. `accuracy` is the share of labels with the largest score, `error` the rest.

    Raises ConfigError for a missing run, split or step, CheckpointError for an unreadable checkpoint.
    """
    config, data = read_settings(run_dir)
    torch.set_num_threads(config.torch_threads)  # as in training: the last digits depend on it
    split = split or ("valid" if data.test is None else "test")
    source, windows = open_split(data, split)
    choice = choose(run_dir, step, "--step ")
    device = device_of(replace(config, devices=["auto"]), 0)
    parts = load_parts(config, run_dir, choice.step)
    periods = config.periods if len(parts) > 1 else [1]
    loss, right, labels = measure(parts, periods, source, windows, device, config.loss)
    found = {
        "split": split, "step": choice.step, "which": choice.which, "bits_per_label": bits(loss / labels),
        "accuracy": right / labels, "error": (labels - right) / labels, "labels": labels,
        "data": {"name": data.name, "sha256": data.sha256},
    }  # fmt: skip
    path = run_dir / f"evaluation-{split}.json"
    with about(path):
        path.write_text(json.dumps(finite(found), indent=2) + "\n")
    return found


def read_settings(run_dir: Path) -> tuple[Config, Data]:
    """Return a run's settings, and its data opened again. Raises ConfigError if the data has changed."""
    trained = trained_settings(run_dir)
    config, data = resolve(trained)
    changed = differences(to_plain(trained), to_plain(config))
    if changed:
        raise ConfigError(f"{run_dir}: the data has changed since it was trained on: {', '.join(changed)}")
    return config, data


def trained_settings(run_dir: Path) -> Config:
    """Return the settings that a run was trained with, without its data. Raises ConfigError if it is no run."""
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder; give a run folder")
    return read_record(run_dir)


def open_split(data: Data, split: str) -> tuple[Source, int]:
    """Return a source at the start of the split, and its number of windows. Raises ConfigError for a missing split."""
    if split == "test":
        if data.test is None:
            others = "data=ptb, seqmnist, mnist, cifar10 and two_clocks do"
            raise ConfigError(f"{data.name} has no test split ({others}): use --split valid")
        test = data.test()
        return test, test.windows_per_pass
    if not data.valid_windows:
        raise ConfigError(f"{data.name} has no validation split because its sequences grow: train with data.length set")
    return data.valid(), data.valid_windows


def load_parts(config: Config, run_dir: Path, step: int) -> list[Chain]:
    """The stages of a run, as one model unless they work at different rates, with the parameters of a checkpoint.

    Raises CheckpointError.
    """
    chains = build_chains(config)
    whole = Chain(OrderedDict(layer for chain in chains for layer in chain.named_children()))
    saved = checkpoint.stages_of(run_dir, step)  # a run may have gone on in others
    states = [checkpoint.load(run_dir, step, index, saved) for index in range(saved)]
    try:
        whole.load_state_dict({name: value for state in states for name, value in state["stage"]["module"].items()})
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        if as_refusal(error) is not None:
            raise
        raise CheckpointError(f"step {step}: the checkpoint in {run_dir} does not fit its settings: {error}") from error
    return chains if max(config.periods) > 1 else [whole]


def measure(
    parts: Sequence[Chain],
    periods: Sequence[int],
    source: Source,
    windows: int,
    device: torch.device,
    function: LossFunction,
) -> tuple[float, int, int]:
    """Nats, hits and number of the counted labels in the next windows of a source, at which the last part works."""
    stages = [  # which evaluate as in training
        (Stage(part.to(device), torch.optim.SGD(part.parameters(), lr=0.0), device=device), UpdatePeriod(every))
        for part, every in zip(parts, periods, strict=True)
    ]
    loss, right, count = 0.0, 0, 0
    for index in range(1, windows + 1):
        window = source.next()
        output = _output(stages, window, index)
        if output is None:
            continue
        labels = split_labels(window.inputs, window.labels)[0].to(device)
        window_loss, hits, counted = function.judge(output, labels)
        loss, right, count = loss + window_loss, right + hits, count + counted
    return loss, right, count


def _output(stages: Sequence[tuple[Stage, UpdatePeriod]], window: Window, index: int) -> Tensor | None:
    """Of the last stage; None: it does not work at the window with this number."""
    x: Tensor | None = window.inputs
    for stage, period in stages:
        frame = Frame(Kind.EVALUATE, tensors={"reset": window.reset, "index": torch.tensor(index)})
        works = period.works(frame)  # called in any case: it collects the resets
        x = stage.evaluate(x, frame.tensors["reset"]) if x is not None and works else None
    return x


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-evaluate`. Returns 0, or 2 after one line on stderr that says what to change."""
    parser = argparse.ArgumentParser("dni-evaluate", description="Measure a trained run on its test split.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
    parser.add_argument("--split", choices=("valid", "test"), help="default: test where the data has one")
    parser.add_argument("--step", metavar="N|best|last", help="default: the best by validation if saved, else the last")
    options = parser.parse_args(argv)
    try:
        with refusals_named():
            found = evaluate(options.run_dir, options.split, options.step)
    except DniError as error:
        print(f"dni-evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(
        f"{found['data']['name']}, {found['split']} split, step {found['step']} ({found['which']}): "
        f"{found['bits_per_label']:.4f} bits per label, {found['accuracy']:.2%} right, {found['labels']} labels"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
