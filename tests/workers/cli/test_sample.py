"""dni-sample: its probabilities equal the evaluation's, its draws follow them, bad arguments are refused."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dni.data import DataSet, load_text
from dni.errors import ConfigError
from tests.support.runs import tiny
from workers.cli.evaluate import evaluate, load_parts, trained_settings
from workers.cli.sample import Sampling, main, open_writer
from workers.config.catalogue import shipped
from workers.config.convert import to_plain
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.storage.vocabulary import VOCABULARY

TEXT = "the cat sat on the mat, and the dog saw it all\n" * 40
BATCH = 4


def trained(folder: Path, **model: Any) -> Path:
    """Train three stages on a text, validated on streams that end with the text."""
    folder.mkdir()
    (folder / "text.txt").write_text(TEXT)
    config = tiny(
        steps=20, stages=3, model={"units": 8, "layers": 3, **model}, depth={"lag": 1},
        data={"path": str(folder / "text.txt"), "batch": BATCH, "sequence": None},
        optimizer={"learning_rate": 2e-2}, evaluate={"windows": None},
    )  # fmt: skip
    launch(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("sample") / "lstm")


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    found = capsys.readouterr()
    (line,) = found.err.splitlines()
    assert found.out == ""
    assert line.startswith("dni-sample: ")
    return line.removeprefix("dni-sample: ")


@pytest.mark.parametrize("model", [{}, {"kind": "mingru"}, {"kind": "transformer", "heads": 2, "memory": 8}])
def test_probabilities_equal_those_of_the_evaluation(model: dict[str, Any], tmp_path: Path) -> None:
    """Each step's equal those of every stream in one piece; their sum is the loss that dni-evaluate finds by window."""
    run_dir = trained(tmp_path / "model", **model)
    found = evaluate(run_dir, "valid")
    valid = load_text(trained_settings(run_dir).data.path).valid
    streams = valid[: len(valid) // BATCH * BATCH].view(BATCH, -1).long()
    usable = (streams.shape[1] - 1) // 6 * 6
    (whole,) = load_parts(trained_settings(run_dir), run_dir, found["step"])
    with torch.no_grad():
        at_once = whole(streams[:, :usable])[0].double().softmax(-1)
    nats = 0.0
    for stream, expected in zip(streams.tolist(), at_once, strict=True):
        reader = open_writer(run_dir).reader
        for place in range(usable):
            scores = reader.read(stream[place : place + 1])
            probabilities = Sampling().probabilities(scores)
            torch.testing.assert_close(probabilities, expected[place], rtol=1e-5, atol=1e-7)
            nats -= math.log(float(probabilities[stream[place + 1]]))
    assert found["labels"] == BATCH * usable
    assert nats == pytest.approx(found["bits_per_label"] * math.log(2) * found["labels"], rel=1e-6)


def test_reading_in_chunks_does_not_change_the_scores(run: Path) -> None:
    one, two = open_writer(run), open_writer(run)
    ids = one.encode("the dog saw it all")
    for symbol in ids[:-1]:
        one.reader.read([symbol])
    torch.testing.assert_close(one.reader.read(ids[-1:]), two.reader.read(ids))


def test_greedy_text_is_the_likeliest_at_every_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(capsys, run, "--prompt", "the ", "--length", "40", "--temperature", "0")
    assert text.startswith("the ")
    assert len(text) == 4 + 40 + 1
    writer = open_writer(run)
    ids = torch.tensor([writer.encode(text[:-1])])
    with torch.no_grad():
        likeliest = writer.reader.model(ids)[0][0].argmax(-1)
    assert likeliest[3:-1].tolist() == ids[0, 4:].tolist()
    assert output_of(capsys, run, "--prompt", "the ", "--length", "40", "--top-k", "1", "--seed", "9") == text


def test_the_seed_decides_what_is_drawn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, again, two = (output_of(capsys, run, "--length", "60", "--seed", seed) for seed in ("0", "0", "1"))
    assert one == again != two
    assert one.startswith("\n")  # the default prompt
    assert set(one) <= set(TEXT)


def test_temperature_and_top_k_change_the_probabilities() -> None:
    scores = torch.tensor([0.2, 0.5, 0.3]).log()
    for sampling, expected in {
        Sampling(): [0.2, 0.5, 0.3],
        Sampling(0.5): [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38],
        Sampling(top_k=2): [0, 0.625, 0.375],
        Sampling(0.5, 2): [0, 0.25 / 0.34, 0.09 / 0.34],
        Sampling(0): [0, 1, 0],
        Sampling(1e-300): [0, 1, 0],
        Sampling(top_k=99): [0.2, 0.5, 0.3],
    }.items():
        assert sampling.probabilities(scores).tolist() == pytest.approx(expected, rel=1e-6), sampling
    with pytest.raises(ConfigError, match="--temperature -1: give 0 "):
        Sampling(-1)
    with pytest.raises(ConfigError, match="--top-k 0: give 1 or more"):
        Sampling(top_k=0)


def test_every_character_is_flushed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        shown: list[int] = []  # noqa: RUF012

        def flush(self) -> None:
            self.shown.append(len(self.getvalue()))

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main([str(run), "--prompt", "the", "--length", "5"]) == 0
    assert terminal.shown[:7] == [3, 4, 5, 6, 7, 8, 9]


def test_the_text_may_be_missing_except_for_older_runs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = output_of(capsys, run, "--length", "20")
    assert json.loads((run / VOCABULARY).read_text())["characters"] == "".join(sorted(set(TEXT)))
    older = copied(run, tmp_path)
    (older / VOCABULARY).unlink()
    assert output_of(capsys, older, "--length", "20") == before
    text = Path(str(trained_settings(run).data.path))
    moved = text.rename(tmp_path / "moved.txt")
    try:
        assert output_of(capsys, run, "--length", "20") == before
        assert refused(capsys, older).startswith(f"no such file or folder: {text}")
    finally:
        moved.rename(text)
    (older / VOCABULARY).write_text('{"characters": "abc"}')
    assert "3 characters, but the model has" in refused(capsys, older)
    (older / VOCABULARY).write_text("{")
    assert f"{older / VOCABULARY}: damaged" in refused(capsys, older)


def test_bad_arguments_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--prompt: its character 4, 'é' (U+00E9), is not among the 17 characters" in refused(
        capsys, run, "--prompt", "caté"
    )
    assert "--prompt is empty" in refused(capsys, run, "--prompt", "")
    assert "--length 0: give 1 or more" in refused(capsys, run, "--length", "0")
    assert "--seed -1: give a number from 0" in refused(capsys, run, "--seed", "-1")
    assert "argument --top-k: invalid int value: 'few'" in refused(capsys, run, "--top-k", "few")
    assert "required: RUN_DIR" in refused(capsys)
    assert "no such folder; give a run folder" in refused(capsys, tmp_path / "no")
    assert "no config.yaml here" in refused(capsys, tmp_path)
    assert "no complete checkpoint of step 7" in refused(capsys, run, "--step", "7")


@pytest.mark.parametrize("kind", sorted({cls.name for cls in shipped("data", DataSet).values()} - {"text"}))
def test_other_data_than_text_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OmegaConf.save(OmegaConf.create(to_plain(tiny(data={"kind": kind}))), tmp_path / "config.yaml")
    assert f"trained on data={kind}: only runs on text (data=text or ptb)" in refused(capsys, tmp_path)


def test_stages_at_different_rates_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OmegaConf.save(
        OmegaConf.create(to_plain(tiny(depth={"method": "multi_rate", "update_periods": [1, 2]}))),
        tmp_path / "config.yaml",
    )
    assert "with update periods [1, 2] the last stage does not answer" in refused(capsys, tmp_path)


def test_a_damaged_or_missing_checkpoint_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copied(run, tmp_path)
    folder = checkpoint.folder_of(damaged, 20)
    whole = (folder / "stage-1.safetensors").read_bytes()
    (folder / "stage-1.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "stage 1, step 20: " in refused(capsys, damaged)
    (folder / "stage-1.safetensors").write_bytes(whole)
    plain = json.loads((folder / "stage-2.json").read_text())
    (folder / "stage-2.json").write_text(json.dumps(plain | {"state": {}}))
    assert "step 20: " in refused(capsys, damaged)
    shutil.rmtree(folder)
    assert "no complete checkpoint here" in refused(capsys, damaged)


def test_non_finite_scores_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diverged = copied(run, tmp_path)
    state = checkpoint.load(diverged, 20, 2)
    for weight in state["stage"]["module"].values():
        weight.fill_(math.nan)
    checkpoint.save(diverged, 2, 3, 20, state)
    assert refused(capsys, diverged) == "step 20: the model's scores are not finite; take an earlier --step"


def test_a_closed_pipe_and_an_interrupt_end_quietly(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as pipe:
        patch.setattr(sys, "stdout", pipe)
        assert main([str(run)]) == 0
    assert capsys.readouterr().err == ""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workers.cli.sample.open_writer", interrupted)
    assert main([str(run)]) == 130
