"""`dni-evaluate`: measure a trained run once on its test or validation split, in one process."""

from __future__ import annotations

import argparse
import json
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
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
from dni.loss_function import Judgement, LossFunction
from dni.methods.backprop import Backprop
from dni.metrics.validation import MetricSums
from dni.named_tensors import Value
from dni.recurrent import Chain
from dni.stages.autocast import AutocastChain
from dni.stages.base import Stage
from workers.build.data import resolve
from workers.build.device import device_of
from workers.build.model import build_chains, dtype_of
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
    passes. `accuracy` is the share of labels with the largest score, `error` the rest. If the loss is not in nats, the
    content has `loss` and `unit` instead of bits. Regression has no accuracy.

    Raises ConfigError for a missing run, split or step, CheckpointError for an unreadable checkpoint.
    """
    config, data = read_settings(run_dir)
    torch.set_num_threads(config.torch_threads)  # as in training: the last digits depend on it
    split = split or ("valid" if data.test is None else "test")
    source, windows = open_split(data, split)
    choice = choose(run_dir, step, "--step ")
    device = device_of(replace(config, devices=["auto"]), 0)
    parts = load_parts(config, run_dir, choice.step)
    periods, metrics = config.periods if len(parts) > 1 else [1], MetricSums(config.metrics)
    total = Judgement(*measure(parts, periods, source, windows, device, config.loss, metrics))
    found = {
        "split": split, "step": choice.step, "which": choice.which, **figures(config.loss, total),
        **_per_byte(config.loss, total, data.bytes_per_label.get(split)),
        **({"metrics": finite(metrics.take())} if config.metrics else {}),
        "labels": total.labels, "data": {"name": data.name, "sha256": data.sha256},
    }  # fmt: skip
    path = run_dir / f"evaluation-{split}.json"
    with about(path):
        path.write_text(json.dumps(finite(found), indent=2) + "\n")
    return found


def figures(function: LossFunction, total: Judgement) -> dict[str, Any]:
    """Return bits, accuracy and error; for a loss that is not in nats, the loss and its unit instead of bits."""
    found: dict[str, Any] = function.figures(total)
    if function.unit != "nats":
        found["unit"] = function.unit
    else:
        del found["loss"]
    return found if function.numbers else found | {"error": (total.labels - total.hits) / total.labels}


def _per_byte(function: LossFunction, total: Judgement, size: float | None) -> dict[str, float]:
    """Return bits per byte of the text, for tokens of `size` bytes on average."""
    found = function.figures(total).get("bits_per_label")
    return {} if size is None or found is None else {"bits_per_byte": found / size}


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
        if test.windows_per_pass is None:
            raise ConfigError(f"{data.name} has no length for its test split: give it __len__, or use --split valid")
        return test, test.windows_per_pass
    if not data.valid_windows:
        raise ConfigError(f"{data.name} has no validation split because its sequences grow: train with data.length set")
    return data.valid(), data.valid_windows


def load_parts(config: Config, run_dir: Path, step: int) -> list[Chain]:
    """The stages of a run, as one model unless they work at different rates, with the parameters of a checkpoint.

    Raises CheckpointError.
    """
    # whole batches, where a pipeline's model may have been traced for microbatches
    chains = build_chains(replace(config, depth=Backprop()) if config.pipelined else config)
    whole = Chain(OrderedDict(layer for chain in chains for layer in chain.named_children()))
    saved = checkpoint.stages_of(run_dir, step)  # a run may have gone on in others
    states = [checkpoint.load(run_dir, step, index, saved) for index in range(saved)]
    try:
        whole.load_state_dict({name: value for state in states for name, value in state["stage"]["module"].items()})
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        if as_refusal(error) is not None:
            raise
        raise CheckpointError(f"step {step}: the checkpoint in {run_dir} does not fit its settings: {error}") from error
    if max(config.periods) > 1:
        return chains
    dtype = dtype_of(config)
    return [whole if dtype is None else AutocastChain(whole, dtype, last=True)]


def measure(
    parts: Sequence[Chain],
    periods: Sequence[int],
    source: Source,
    windows: int,
    device: torch.device,
    function: LossFunction,
    metrics: MetricSums | None = None,
) -> tuple[float, int, int]:
    """Return loss, hits and number of the counted labels in the next windows of a source.

    Windows at which the last part does not work are left out. `metrics` measures the same windows.
    """
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
        if metrics is not None:
            metrics.add(output, labels)
        loss, right, count = loss + window_loss, right + hits, count + counted
    return loss, right, count


def _output(stages: Sequence[tuple[Stage, UpdatePeriod]], window: Window, index: int) -> Tensor | None:
    """Of the last stage; None: it does not work at the window with this number."""
    x: Value | None = window.inputs
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
    where = f"{found['data']['name']}, {found['split']} split, step {found['step']} ({found['which']})"
    print(f"{where}: {', '.join(_said(found))}, {found['labels']} labels")
    return 0


def _said(found: Mapping[str, Any]) -> Iterator[str]:
    if "unit" in found:
        yield f"loss {found['loss']:.6g} {found['unit']}"
    else:
        yield f"{found['bits_per_label']:.4f} bits per label"
    if "bits_per_byte" in found:
        yield f"{found['bits_per_byte']:.4f} bits per byte"
    if "accuracy" in found:
        yield f"{found['accuracy']:.2%} right"
    yield from (f"{key} {'-' if value is None else f'{value:.6g}'}" for key, value in found.get("metrics", {}).items())


if __name__ == "__main__":
    sys.exit(main())
