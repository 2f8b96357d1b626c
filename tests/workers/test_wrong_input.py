"""Wrong input of a user: one line that says what to do; exit code 2 and nothing written where it can be known early.

What only shows in training ends with exit code 1, and the line names stage and step.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni.data.sequential_mnist import VALID
from tests.support.commands import settings
from tests.support.pictures import pictures
from workers.cli.train import exit_codes
from workers.launch.launcher import launch

WRONG = "model=tests.plugin.models.wrong."
SMALL = (
    "stages=2", "steps=6", "data.batch=4", "data.window=6", "data.sequence=18", "time=truncated", "evaluate.every=null",
    "evaluate.windows=1", "checkpoint.every=null", "transport=local", "launch=threads", "launch.torch_threads=1",
)  # fmt: skip


def line_of(capsys: pytest.CaptureFixture[str], run_dir: Path, code: int, overrides: str) -> str:
    """Return the one line on stderr of `dni-train OVERRIDES`, which exits with `code`."""
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*SMALL, *overrides.split()), run_dir)
    assert left.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dni-train: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("dni-train: ")


RETURNS = r"model=two: layer '0' \(First\) returns {}, and must return one tensor, or a dict of named ones: write "
CROSSES = r"model=two: stage 0 sends {} and cannot cross a cut: return dense real tensors"
AT_THE_DOOR = {
    # outputs of a type that cannot cross
    "two model.answer=none": RETURNS.format("a NoneType"),
    "two model.answer=list": RETURNS.format("a list"),
    "two model.answer=string": RETURNS.format("a str"),
    "two model.answer=nested": RETURNS.format("a dict with a dict named 'a'"),
    "two model.answer=number": RETURNS.format("a dict with a int named 'b'"),
    "two model.answer=empty": RETURNS.format("an empty dict"),
    "two model.answer=complex": CROSSES.format(r"a tensor, which is complex64 strided"),
    "two model.answer=one_complex": CROSSES.format(r"the tensor b, which is complex64 strided"),
    "two model.answer=sparse": CROSSES.format(r"a tensor, which is float32 sparse_coo"),
    "two model.answer=scalar": r"stage 0 sends a number as its first tensor: return one whose first size is that of",
    "whole_numbers": r"gives scores in torch\.int64: its last layer must give float numbers",
    # parts that do not compose
    "misfit": r"model=misfit: 1 cannot take an input of shape \[1, 2, 6\]: RuntimeError: mat1 and mat2 shapes .* must",
    "two model.answer=other_names": r"model=two: 1 cannot take an input of shape \{'a': .*'c': .*\}: KeyError: 'b'",
    # functions
    "needs_more": r"wrong\.needs_more: the parameter width needs a type and a default to be a setting: write width",
    "nothing": r"model=nothing: build gives a NoneType, and must give an nn\.Sequential .*, a list of parts, or an",
    "a_class": r"model=a_class: build gives a type, and must give an nn\.Sequential",
    "no_parts": r"the model has no layers to cut",
    "half_a_list": r"model=half_a_list: part 1 is a str, and must be an nn\.Module",
    "dotted": r"model=dotted: part 'first\.part' needs another name: KeyError: .*module name can",
    "failing": r"model=failing cannot be built: KeyError: 'width' \(wrong\.py, line \d+\)",
    # cuts
    "two stages=3": r"stages is 3, but this model can be cut into 1 to 2, beginning at 0, 1",
    "bare stages=3 model.split_points=[relu,scores]": r"stage 1 \(relu\) has no parameters to train: begin the next",
    "frozen stages=3": r"model=frozen: stage 1 \(relu\) has no parameter that requires a gradient: begin the next",
    "tied stages=2": r"first\.weight in stage 0 and scores\.weight in stage 1 are the same parameter: set model\.tie",
    # precision
    "two precision=fp16 devices=[cpu]": r"precision=fp16 needs a GPU, and stage 0 is on cpu: use precision=bf16",
    # a setting without effect
    "two depth=local predictor.depth.hidden=8": r"predictor\.depth\.hidden=8 has no effect with depth=local, .*: set d",
}


@pytest.mark.parametrize("overrides", AT_THE_DOOR)
def test_what_is_known_early_is_refused_and_nothing_is_written(
    overrides: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(capsys, tmp_path / "run", 2, f"{WRONG}{overrides}")
    assert re.search(AT_THE_DOOR[overrides], line)
    assert not (tmp_path / "run").exists()


SENT = r"^WrongTensor: stage 1: STEP of step 3 from stage 0: "
SAME = r"; a model must send the same tensors at every step"
IN_TRAINING = {
    # a tensor that vanishes or appears
    "later=fewer depth=backprop": SENT
    + r"it has the tensors \[.*'value\.a'\], and the settings say .*'value\.b'\]"
    + SAME,
    "answer=fine later=other_names depth=backprop": SENT + r"it has the tensors .*'value\.c'\].*'value\.b'\]" + SAME,
    # a shape or an element type that changes
    "later=narrow depth=backprop": SENT
    + r"'value\.b' is float32 \(4, 6, 5\), the settings say float32 \(4, 6, 6\)"
    + SAME,
    "later=double depth=backprop": SENT + r"'value\.b' is float64 .*, the settings say float32 \(4, 6, 6\)" + SAME,
    # what is no value at all
    "later=none depth=synthetic": r"^UsageError: stage 0, step 3: layer '0' \(First\) returns a NoneType, "
    + r"and must return one tensor",
}


@pytest.mark.parametrize("overrides", IN_TRAINING)
def test_what_shows_in_training_ends_the_run_and_is_named(
    overrides: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = " ".join(f"model.{word}" if word.startswith(("answer", "later")) else word for word in overrides.split())
    assert re.search(IN_TRAINING[overrides], line_of(capsys, tmp_path / "run", 1, f"{WRONG}two {changes}"))
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("later", ["narrow", "double"])
def test_a_predictor_names_what_has_changed_as_well(
    later: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 0 may fail on its own predictor before stage 1 has seen the frame."""
    line = line_of(capsys, tmp_path / "run", 1, f"{WRONG}two model.later={later} depth=synthetic")
    assert re.search(r"stage 0: step 3: .*at every step|" + SENT, line)


@pytest.mark.long
@pytest.mark.parametrize("method", ["backprop", "synthetic"])
def test_processes_name_stage_and_step_too(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = f"{WRONG}two model.later=fewer depth={method} transport=grpc launch=processes"
    line = line_of(capsys, tmp_path / "run", 1, overrides)
    theirs = r"stage 1.*step 3 from stage 0: it has the tensors .*'value\.a'\].*'value\.b'\]" + SAME
    own = r"stage 0.*step 3: the output has no tensor b" + SAME  # predictors may see it first
    assert re.search(f"{theirs}|{own}" if method == "synthetic" else theirs, line)


def test_a_label_out_of_range_is_refused_where_all_labels_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "data")
    records = np.fromfile(folder / "data_batch_2.bin", np.uint8)
    records[3073] = 12
    records.tofile(folder / "data_batch_2.bin")
    data = f"model=mlp_bn data=cifar10 data.path={folder} data.window=1 data.sequence=null"
    line = line_of(capsys, tmp_path / "run", 2, data)
    assert re.search(r"holds a label 12: CIFAR-10 has the classes 0 to 9", line)
    assert not (tmp_path / "run").exists()


def test_a_token_out_of_range_is_named_when_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Token files are memory-mapped, so a run reads only what it trains on."""
    tokens: Any = np.arange(VALID, dtype=np.uint16) % 9
    tokens.tofile(tmp_path / "valid.bin")
    tokens[20] = 40
    tokens.tofile(tmp_path / "train.bin")
    data = f"data=tokens data.path={tmp_path} data.vocabulary=9"
    line = line_of(capsys, tmp_path / "run", 2, data)
    assert re.search(r"stage 0.*train\.bin.* 40", line)
