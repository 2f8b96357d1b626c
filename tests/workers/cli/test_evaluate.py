"""dni-evaluate: independently computed figures, the chosen checkpoint, and refused arguments."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dni.data import load_text
from tests.dni.data.test_sequential_mnist import write
from tests.support.runs import tiny
from workers.build.model import build_chains
from workers.cli.evaluate import main
from workers.config.convert import from_any
from workers.launch.launcher import launch
from workers.storage import checkpoint

BATCH = 4
PTB = {"train": "a dog sees a cat\n" * 40, "valid": "a cat sees a dog\n" * 20, "test": "the dog sees\na cat\n" * 21}


@pytest.fixture(scope="module")
def ptb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two stages on a text with a test split: validated at 10 and 20, saved every 5 steps."""
    base = tmp_path_factory.mktemp("ptb")
    (base / "text").mkdir()
    for part, text in PTB.items():
        (base / "text" / f"ptb.{part}.txt").write_text(text)
    config = tiny(
        data={"path": str(base / "text"), "sequence": None, "batch": BATCH}, steps=20, depth={"lag": 1},
        evaluate={"every": 10, "windows": None, "patience": 9}, checkpoint={"keep": 3, "every": 5},
        optimizer={"learning_rate": 2e-2},
    )  # fmt: skip
    launch(config, base / "run")
    return base / "run"


def measured(run_dir: Path, *arguments: str) -> dict[str, Any]:
    assert main([str(run_dir), *arguments]) == 0
    (newest,) = sorted(run_dir.glob("evaluation-*.json"), key=lambda path: path.stat().st_mtime_ns)[-1:]
    found: dict[str, Any] = json.loads(newest.read_text())
    assert newest.name == f"evaluation-{found['split']}.json"
    return found


@torch.no_grad()
def whole_streams(run_dir: Path, step: int) -> tuple[float, float, int]:
    """Return bits and accuracy on the test text, with every stream in one piece, without windows."""
    config = from_any(run_dir / "config.yaml")
    ids = load_text(config.data.path).test
    assert ids is not None
    streams = ids[: len(ids) // BATCH * BATCH].view(BATCH, -1).long()
    usable = (streams.shape[1] - 1) // 6 * 6
    x, labels = streams[:, :usable], streams[:, 1 : usable + 1]
    for k, chain in enumerate(build_chains(config)):
        chain.load_state_dict(checkpoint.load(run_dir, step, k)["stage"]["module"])
        x, _ = chain(x)
    nats = F.cross_entropy(x.flatten(0, 1), labels.flatten()).item()
    return nats / math.log(2), (x.argmax(-1) == labels).double().mean().item(), labels.numel()


def test_the_test_split_is_the_default_and_equals_whole_streams(ptb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(ptb, "--step", "15")
    bits, accuracy, labels = whole_streams(ptb, 15)
    assert found["bits_per_label"] == pytest.approx(bits, rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy)
    assert (found["split"], found["step"], found["which"], found["labels"]) == ("test", 15, "chosen", labels)
    assert found["data"]["sha256"] == json.loads((ptb / "summary.json").read_text())["data"]["sha256"]
    output = capsys.readouterr()
    assert output.out == (
        f"text, test split, step 15 (chosen): {found['bits_per_label']:.4f} bits per label, "
        f"{found['accuracy']:.2%} right, {labels} labels\n"
    )
    assert output.err == ""


def test_the_validation_split_is_measured_as_in_training(ptb: Path) -> None:
    records = [json.loads(line) for line in (ptb / "metrics.jsonl").read_text().splitlines()]
    passes = [record for record in records if record["kind"] == "valid"]
    assert [record["step"] for record in passes] == [10, 20]
    for record in passes:
        found = measured(ptb, "--split", "valid", "--step", str(record["step"]))
        assert (found["bits_per_label"], found["accuracy"]) == (record["bits_per_label"], record["accuracy"])


def test_the_best_checkpoint_is_the_default_then_the_last(ptb: Path, tmp_path: Path) -> None:
    run = shutil.copytree(ptb, tmp_path / "run")
    best = json.loads((ptb / "summary.json").read_text())["best"]["step"]
    assert [(f["step"], f["which"]) for f in (measured(run), measured(run, "--step", "best"))] == [(best, "best")] * 2
    found = measured(run, "--step", "last")
    assert (found["step"], found["which"]) == (20, "last")
    shutil.rmtree(checkpoint.folder_of(run, best))
    left = checkpoint.complete_steps(run)[-1]
    found = measured(run)
    assert (found["step"], found["which"]) == (left, "last")
    (run / "metrics.jsonl").unlink()
    assert measured(run)["which"] == "last"


def test_a_damaged_checkpoint_is_named_and_another_one_used(
    ptb: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(ptb, tmp_path / "run")
    best, steps = json.loads((ptb / "summary.json").read_text())["best"]["step"], checkpoint.complete_steps(run)
    others = [step for step in steps if step != best]
    for step in (best, others[-1]):
        (checkpoint.folder_of(run, step) / "stage-1.safetensors").write_bytes(b"")
    found = measured(run)
    assert (found["step"], found["which"]) == (max(set(others[:-1])), "last")
    assert f"step-{best:08d}/stage-1.safetensors is damaged" in caplog.messages[0]
    assert caplog.messages[0].endswith("; this is the best checkpoint; taking the last one instead")
    assert any(f"step-{others[-1]:08d}/stage-1.safetensors is damaged" in message for message in caplog.messages)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    assert line.startswith("dni-evaluate: ")
    return line.removeprefix("dni-evaluate: ")


def test_missing_runs_splits_and_steps_are_named(ptb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, tmp_path / "no") == f"{tmp_path / 'no'}: no such folder; give a run folder"
    assert "no config.yaml here; give a run folder" in refused(capsys, tmp_path)
    assert "--step soon: give a number of steps, best or last" in refused(capsys, ptb, "--step", "soon")
    assert "no complete checkpoint of step 7; complete steps: [" in refused(capsys, ptb, "--step", "7")
    run = shutil.copytree(ptb, tmp_path / "run")
    best = json.loads((ptb / "summary.json").read_text())["best"]["step"]
    (checkpoint.folder_of(run, best) / "stage-1.json").unlink()
    assert f"step {best} was not kept (with patience it is); use --step last" in refused(capsys, run, "--step", "best")
    (run / "metrics.jsonl").write_text("")
    assert "the run was never validated; use --step last" in refused(capsys, run, "--step", "best")
    last = checkpoint.folder_of(run, checkpoint.complete_steps(run)[-1])
    (last / "stage-0.safetensors").write_bytes(b"")
    step = last.name.removeprefix("step-").lstrip("0")
    assert "stage-0.safetensors is damaged: its content does not" in refused(capsys, run, "--step", step)
    shutil.rmtree(run / "checkpoints")
    assert "no complete checkpoint here (checkpoint.every sets how often one is written)" in refused(capsys, run)


def test_a_checkpoint_of_another_model_is_refused(
    ptb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(ptb, tmp_path / "run")
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(settings.replace("units: 8", "units: 4"))
    assert "config.yaml: damaged: its SHA-256 differs from the one in its first line: it was edited" in refused(
        capsys, run
    )
    _, unsigned = settings.split("\n", maxsplit=1)  # as written by an earlier version
    (run / "config.yaml").write_text(unsigned.replace("units: 8", "units: 4"))
    assert re.match(r"step \d+: the checkpoint in .* does not fit its settings: ", refused(capsys, run))
    (run / "config.yaml").write_text(unsigned.replace("sha256: ", "sha256: 0"))
    assert "the data has changed since it was trained on: data.sha256 was 0" in refused(capsys, run)


def test_a_text_without_a_test_split_is_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("abcd\n" * 300)
    launch(tiny(steps=2, stages=1, data={"path": str(tmp_path / "text.txt")}), tmp_path / "run")
    assert measured(tmp_path / "run")["split"] == "valid"
    line = refused(capsys, tmp_path / "run", "--split", "test")
    assert (
        line == "text.txt has no test split (data=ptb, seqmnist, mnist, cifar10 and two_clocks do): use --split valid"
    )


def test_a_curriculum_has_no_split_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copying = {"kind": "copy", "batch": 4, "window": 4, "sequence": None}
    launch(tiny(steps=2, stages=1, data=copying), tmp_path / "growing")
    assert "copy has no validation split because its sequences grow" in refused(capsys, tmp_path / "growing")
    launch(tiny(steps=2, stages=1, data={**copying, "length": 9}), tmp_path / "fixed")
    assert measured(tmp_path / "fixed")["labels"] == 16 * 4 * 4  # 16 sequences in 4 streams, 3 bits and an end


def test_mnist_is_trained_without_its_test_images_and_measured_on_them(tmp_path: Path) -> None:
    """The test split is opened only on request: its files are missing during training."""
    white = np.zeros((5_032, 28, 28), dtype=np.uint8)
    write(tmp_path, "train", white, np.full(5_032, 3, dtype=np.uint8))
    data = {"kind": "seqmnist", "path": str(tmp_path), "side": 7, "batch": 8, "window": 7, "sequence": None}
    config = tiny(steps=35, data=data, optimizer={"learning_rate": 5e-2}, evaluate={"every": None, "windows": 14})
    summary = launch(config, tmp_path / "run").summary
    assert summary["valid"]["accuracy"] == 1.0  # all images show the digit 3
    digits = (np.arange(27) % 4).astype(np.uint8)
    write(tmp_path, "t10k", white[:27], digits)
    found = measured(tmp_path / "run", "--step", "last")
    assert (found["split"], found["labels"]) == ("test", 24)  # whole batches of 8
    assert found["accuracy"] == 0.25
