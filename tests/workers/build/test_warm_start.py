"""Warm start: which state a new run takes from an earlier one, which starts fresh, and which runs are refused."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from dni.errors import ConfigError, ResumeError
from tests.support.commands import settings
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.interfaces import learners
from workers.build.warm_start import chains_without_content
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.launch.threads import run_threads
from workers.resume.start import settle_start
from workers.runtime.job import Job
from workers.storage import checkpoint
from workers.tracking.run import METRICS, read_metrics

BOTH = {"depth": {"method": "synthetic", "lag": 1}, "time": {"method": "synthetic"}}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three stages (embedding and lstm1, lstm2, lstm3 and softmax), saved at 4 and 8."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    cut = {"split_points": ["lstm2", "lstm3"]}
    launch(tiny(**BOTH, steps=8, stages=3, model=cut, checkpoint={"every": 4}, evaluate={"every": 4}), folder)
    return folder


def saved_at_start(config: Config, folder: Path) -> Path:
    """Save a run of these settings before its first step, and return its folder."""
    config, data = resolve(config)
    config, stop = settle_start(config), Event()
    stop.set()
    run_threads(Job(config, folder, lambda record: None, stop, data))
    assert checkpoint.complete_steps(folder) == [0]
    return folder


def warm_started(earlier: Path, **changes: Any) -> Config:
    return tiny(**{"start_from": str(earlier), "start_step": "4", "seed": 7, **changes})


def weights_of(earlier: Path, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for stage in range(3):
        found |= checkpoint.load(earlier, step, stage)["stage"]["module"]
    return found


def test_weights_and_predictors_are_taken_and_the_rest_starts_fresh(
    earlier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    own = {"learning_rate": 1e-3, "schedule": {"kind": "cosine"}}
    cut = {"split_points": ["lstm2", "lstm3"]}
    run = saved_at_start(warm_started(earlier, **BOTH, stages=3, model=cut, optimizer=own, data={"batch": 2}), tmp_path)
    assert_same(parameters_of(run, 3), weights_of(earlier, 4))
    for stage in range(3):
        new, old = checkpoint.load(run, 0, stage), checkpoint.load(earlier, 4, stage)
        assert new["stage"]["optimizer"]["state"] == {}
        assert new["stage"]["optimizer"]["param_groups"][0]["lr"] == 1e-3
        assert new["stage"]["schedule"]["last_epoch"] == 0
        assert new["stage"]["state"] is None
        for cut_name in ("depth", "time")[stage == 2 :]:
            assert_same(new[cut_name]["predictor"], old[cut_name]["predictor"])
            assert (new[cut_name]["updates"], new[cut_name]["optimizer"]["state"]) == (0, {})
    assert caplog.messages == [
        f"starting from the weights of step 4 (chosen) of {earlier}; predictors taken: depth at stage 0, "
        "time at stage 0, depth at stage 1, time at stage 1, time at stage 2"
    ]


def test_other_stages_take_layers_by_name_and_predictors_by_cut(
    earlier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    changes = {**BOTH, "predictor": {"time": {"hidden": 5}}, "stages": 2, "model": {"split_points": ["lstm3"]}}
    run = saved_at_start(warm_started(earlier, **changes), tmp_path)
    assert_same(parameters_of(run, 2), weights_of(earlier, 4))
    new, old = checkpoint.load(run, 0, 0)["depth"], checkpoint.load(earlier, 4, 1)["depth"]
    assert_same(new["predictor"], old["predictor"])  # both behind lstm2
    assert caplog.messages[0].partition("; ")[2] == (
        "predictors taken: depth at stage 0; predictors that start untrained: time at stage 0 (no predictor at "
        "this cut there), time at stage 1 (other sizes there)"
    )


def test_a_run_starts_from_the_best_checkpoint(earlier: Path, tmp_path: Path) -> None:
    """The earlier run has checkpoints of steps 4 and 8."""
    summary = launch(tiny(start_from=str(earlier), steps=3, stages=1, seed=5), tmp_path / "run").summary
    assert summary["steps"] == 3
    settled = (tmp_path / "run" / "config.yaml").read_text()
    best = min((r for r in read_metrics(earlier / METRICS) if r["kind"] == "valid"), key=lambda r: r["bits_per_label"])
    assert f"start_step: '{best['step']}'" in settled
    assert f"start_from: {earlier}" in settled


@pytest.mark.long
def test_a_warm_started_run_resumes_like_any_other(earlier: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"start_from": str(earlier), "stages": 1, "depth": {"method": "backprop"}}
    launch(tiny(**own, steps=6), tmp_path / "whole")
    launch(tiny(**own, steps=3), tmp_path / "part")
    launch(tiny(**own, steps=6, resume=str(tmp_path / "part")), tmp_path / "on")  # its settings are repeated
    assert_same(parameters_of(tmp_path / "on", 1), parameters_of(tmp_path / "whole", 1))
    assert "start_from: null" in (tmp_path / "on" / "config.yaml").read_text()
    both = {**own, "start_from": str(tmp_path / "whole"), "resume": str(tmp_path / "part")}
    with pytest.raises(
        ResumeError, match=r"continues a run with all its state, start_from=.*/whole takes the weights alone into"
    ):
        launch(tiny(**both, steps=6), tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": "/no/such"}, r"start_from=/no/such: no config\.yaml here; give a run folder"),
        ({"start_step": "5"}, r"no complete checkpoint of step 5; complete steps: \[4, 8\]"),
        ({"start_step": "soon"}, r"start_step=soon: give a number of steps, best or last"),
        (
            {"model": {"units": 6}},
            r"has another model: embedding\.weight is \(\d+, 8\), here \(\d+, 6\), lstm1\.\S+ is .* more; set",
        ),
        ({"model": {"layers": 2}}, r"has another model: lstm3\.\S+ is \(32, 8\), here not there, "),
        (
            {"data": {"kind": "copy", "sequence": None}},
            r"has another model: embedding\.weight is \(\d+, 8\), here",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    changes: dict[str, Any], message: str, earlier: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        launch(warm_started(earlier, **{"stages": 1, **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_number_of_other_symbols_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, text in (("a", "abcd\n"), ("b", "bcde\n"), ("c", "dcba\n")):
        (tmp_path / name).write_text(text * 300)
    launch(tiny(steps=2, stages=1, data={"path": str(tmp_path / "a")}), tmp_path / "run")

    def start(name: str) -> Config:
        return tiny(steps=2, stages=1, data={"path": str(tmp_path / name)}, start_from=str(tmp_path / "run"))

    with pytest.raises(
        ConfigError, match=r"its text has other symbols: \['a'\] only there, \['e'\] only here; train on"
    ):
        launch(start("b"), tmp_path / "other")
    launch(start("c"), tmp_path / "same")
    (tmp_path / "a").unlink()
    launch(start("b"), tmp_path / "unknown")
    assert any("has moved or changed: cannot check whether its 5 symbols are the same" in m for m in caplog.messages)


def test_a_damaged_checkpoint_gives_no_weights(earlier: Path, tmp_path: Path) -> None:
    launch(tiny(steps=2, stages=1), tmp_path / "run")
    (checkpoint.folder_of(tmp_path / "run", 2) / "stage-0.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"stage-0\.safetensors is damaged: .*; choose another with start_step=N"):
        launch(tiny(steps=2, stages=1, start_from=str(tmp_path / "run")), tmp_path / "no")


@pytest.mark.parametrize("kind", ["lstm", "gru", "mingru", "transformer", "mlp", "mlp_bn", "cnn", "resnet"])
def test_names_and_shapes_of_every_model_need_no_weights(kind: str) -> None:
    image = [1, 28, 28] if kind in ("mlp_bn", "cnn", "resnet") else None
    model = {"kind": kind, "symbols": 10, "input_symbols": 10, "input_shape": image}
    config = tiny(model=model, data={"kind": "mnist" if image else "text"}, depth={"method": "local"})
    chains = chains_without_content(config)
    assert all(parameter.is_meta for chain in chains for parameter in chain.parameters())
    found = learners(config, 0, chains[0])
    assert [(learner.cut, learner.place) for learner in found] == [("depth", "head")]
    assert [module.out_features for module in found[0].module.modules() if hasattr(module, "out_features")] == [10]


def test_a_local_head_is_taken(tmp_path: Path) -> None:
    local = {"depth": {"method": "local"}, "steps": 2, "stages": 2}
    launch(tiny(**local), tmp_path / "run")
    run = saved_at_start(tiny(**local, seed=4, start_from=str(tmp_path / "run")), tmp_path / "new")
    new, old = (checkpoint.load(folder, step, 0)["depth"]["head"] for folder, step in ((run, 0), (tmp_path / "run", 2)))
    assert_same(new, old)


def test_the_command_line_sets_run_and_step() -> None:
    config = settings("start_from=outputs/1", "start_step=200")
    assert (config.start_from, config.start_step) == ("outputs/1", "200")
    assert settings("start_from=outputs/1", "start_step=best").start_step == "best"
