"""`model.split=measured`: measured once by the command, recorded as split points, and cut alike ever after."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni.errors import ResumeError
from tests.support.commands import LOCAL, SMALL, Command, settings
from workers.launch.accept import settle
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.storage.record import read_record

SLOW = "model=tests.support.planning.slow_layer.SlowThird"
SIZES = tuple(word for word in SMALL if not word.startswith(("stages", "model.", "data.window", "data.sequence")))
ASKED = (
    SLOW, "model.split=measured", "stages=3", "time=truncated", "data.window=12", "data.sequence=24", *SIZES, "steps=6",
    "checkpoint.every=3",
)  # fmt: skip


def layers(run_dir: Path, step: int) -> list[set[str]]:
    """The layers in the checkpoint of each of three stages."""
    states = [checkpoint.load(run_dir, step, index, 3)["stage"]["module"] for index in range(3)]
    return [{name.split(".")[0] for name in state} for state in states]


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_run_in_processes_is_cut_by_time_and_goes_on_cut_alike(tmp_path: Path) -> None:
    words = (*ASKED, "launch=processes", f"hydra.run.dir={tmp_path / 'first'}")
    with Command(tmp_path, words, environment={"PYTHONPATH": str(Path(__file__).parents[3])}) as command:
        done = command.finish(within=100)
    assert done.code == 0, done.err
    said = [line for line in done.out + done.err if "model.split=measured: cut at" in line]
    assert len(said) == 1, "measured once, not by every stage"
    assert "model.split_points=[slow,last]" in said[0]
    recorded = read_record(tmp_path / "first").model
    assert (recorded.split.name, recorded.split_points) == ("measured", ["slow", "last"])
    cut = [{"embedding", "first"}, {"slow"}, {"last", "scores"}]
    assert layers(tmp_path / "first", 6) == cut
    launch(settings(f"resume={tmp_path / 'first'}", "resume_step=3", "steps=8", *LOCAL), tmp_path / "again")
    assert layers(tmp_path / "again", 8) == cut


@pytest.mark.long
def test_a_run_goes_on_cut_alike_if_its_model_is_named_anew(tmp_path: Path) -> None:
    first = [word for word in ASKED if word != "model.split=measured"]
    launch(settings(*first, *LOCAL, "model.split_points=[first,scores]"), tmp_path / "named")
    with pytest.raises(ResumeError, match=r"model\.split was parameters, now measured"):
        launch(settings(f"resume={tmp_path / 'named'}", "model.split=measured", "steps=8"), tmp_path / "no")
    launch(settings(*ASKED, *LOCAL), tmp_path / "first")
    launch(settings(f"resume={tmp_path / 'first'}", *ASKED[:2], "steps=8"), tmp_path / "again")
    assert read_record(tmp_path / "again").model == read_record(tmp_path / "first").model


def test_a_sweep_is_checked_without_measuring(tmp_path: Path) -> None:
    config, _ = settle(settings(*ASKED, *LOCAL), None, measures=False)
    assert config.model.split_points == []
