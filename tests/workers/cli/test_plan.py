"""`dni-plan`: a process from words to table and file, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.cli.plan import main
from workers.config.compose import compose_settings
from workers.config.validation.check import check

ROOT = Path(__file__).parents[3]
SLOW = "model=tests.support.planning.slow_layer.SlowThird stages=3 data.batch=16 data.window=12 data.sequence=24"
METHODS = ["backprop", "synthetic", "local", "delayed", "gpipe", "1f1b", "interleaved_1f1b", "zero_bubble"]


def plan(folder: Path, words: str) -> tuple[list[str], dict[str, Any]]:
    """The lines that `dni-plan` prints, started in a folder of its own, and what it writes."""
    command = "from workers.cli.commands import plan; plan()"
    done = subprocess.run(
        [sys.executable, "-c", command, *shlex.split(words), "--json", "p.json"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "p.json").read_text())
    return done.stdout.splitlines(), found


@pytest.mark.timeout(120)
@pytest.mark.long
def test_layers_partitions_methods_and_the_setting_to_type(tmp_path: Path) -> None:
    words = f"{SLOW} time=truncated model.split_points=[slow,scores]"
    lines, found = plan(tmp_path, f"{words} --delay-ms 50 --bandwidth-mbit 100 --microbatches 4")
    assert lines[-1] == "cut by measured time: model.split_points=[slow,last]"
    assert found["to_type"] == "model.split_points=[slow,last]"
    assert [layer["name"] for layer in found["layers"]] == ["embedding", "first", "slow", "last", "scores"]
    cuts = {cut["name"]: cut for cut in found["partitions"]}
    assert list(cuts) == ["settings", "parameters", "measured"]
    assert cuts["settings"]["split_points"] == ["slow", "scores"]
    times = [layer["forward_s"] + layer["backward_s"] + layer["update_s"] for layer in found["layers"]]
    assert cuts["measured"]["slowest_s"] == pytest.approx(times[2])
    assert cuts["measured"]["balance"] == pytest.approx(3 * times[2] / sum(times))
    assert all(cut["cut_bytes"] == [16 * 12 * 32 * 4] * 2 for cut in cuts.values())
    told = {(each["method"], each["partition"]): each for each in found["forecasts"]}
    assert {method for method, _ in told} == {*METHODS} - {"interleaved_1f1b"}
    assert any("interleaved_1f1b: 3 stages of 2 parts need 6 layers" in line for line in lines)
    seconds = sum(times) + 2 * 2 * (0.05 + 16 * 12 * 32 * 4 / 12.5e6)
    assert told["backprop", "measured"]["updates_per_s"] == pytest.approx(1 / seconds, rel=1e-6)
    assert told["backprop", "measured"]["bubble"] == pytest.approx(1 - sum(times) / 3 / seconds, rel=1e-6)
    check(compose_settings([*shlex.split(words)[:-1], str(found["to_type"])]))


@pytest.mark.timeout(120)
@pytest.mark.long
def test_images_are_planned_without_their_files(tmp_path: Path) -> None:
    lines, found = plan(tmp_path, "experiment=mnist model.units=16 data.batch=8 stages=2")
    assert [layer["name"] for layer in found["layers"]][:2] == ["flatten", "layer1"]
    assert found["layers"][0]["output_bytes"] == 8 * 28 * 28 * 4
    assert any("data=mnist was not read" in line and "(1, 28, 28)" in line for line in lines)
    assert list(tmp_path.iterdir()) == [tmp_path / "p.json"], "no run folder"


@pytest.mark.timeout(120)
@pytest.mark.long
def test_regression_is_planned_with_vectors_and_float_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "waves.npy", np.random.default_rng(0).normal(size=(900, 3)))
    words = "data=series data.path=waves.npy loss=squared_error data.batch=4 data.window=8 stages=2 model.units=8"
    lines, found = plan(tmp_path, words)
    assert [found["layers"][n]["name"] for n in (0, -1)] == ["inputs", "output"]
    assert [found["layers"][n]["output_bytes"] for n in (0, -1)] == [4 * 8 * 8 * 4, 4 * 8 * 3 * 4]
    assert {"synthetic", "local"} <= {each["method"] for each in found["forecasts"]}, lines


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("stages=9", "stages is 9, but this model can be cut into 1 to 5: ask for 5 or fewer"),
        ("stages=1", "stages=1 leaves nothing to cut: set stages=2 or more"),
        ("nosuch=1", "Could not override 'nosuch'. Key 'nosuch' not in 'Config' (all settings: dni-train --cfg job)"),
        ("depth.lag=9", "depth.lag=9 does not fit depth.max_in_flight=4: the target of step t - lag must still be in "
         "flight; set depth.max_in_flight=10 or more (or depth.lag=null)"),
        ("hydra.run.dir=x", "hydra.run.dir=x: dni-plan writes no run folder, leave it out"),
        ("--delay-ms soon", "--delay-ms soon: give a number of 0 or more"),
        ("--bandwidth-mbit 0", "--bandwidth-mbit 0: give more than 0, or leave it out"),
        ("--window 0", "--window 0: give a number of 1 or more"),
        ("--microbatches 1.5", "--microbatches 1.5: give a whole number"),
        ("--nosuch", "unrecognized arguments: --nosuch; all options: dni-plan --help"),
        ("data.path=/no/such", "no such file or folder: /no/such; give a UTF-8 text file or a folder of them"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_code_2(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"dni-plan: {says}\n")
