"""Runs submitted as jobs by Hydra's submitit launcher, one stage per task, on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from submitit.core.utils import UncompletedJobError

from tests.support.commands import LOCAL, SMALL, Command, children, settings, summary_of
from tests.support.runs import assert_same, parameters_of
from workers.cli.train import exit_codes
from workers.launch.cluster_environment import first_node, rendezvous_address
from workers.launch.launcher import launch
from workers.storage import checkpoint

SUBMITTED = ("-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.sweep.dir=sweep")


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_sweep_whose_stages_are_tasks_equals_runs_in_one_process_bit_for_bit(tmp_path: Path) -> None:
    method = (*SMALL, "depth=backprop", "steps=6")
    with Command(tmp_path, (*SUBMITTED, *method, "launch=external", "seed=0,1")) as command:
        done = command.finish(within=100)
    assert done.code == 0, done.err
    for seed in (0, 1):
        found, one = tmp_path / "sweep" / str(seed), tmp_path / f"one-{seed}"
        launch(settings(*method, f"seed={seed}", *LOCAL), one)
        assert_same(parameters_of(found, 2), parameters_of(one, 2))
        summary = summary_of(found)
        assert (summary["launch"], summary["seed"], len(summary["stage"])) == ("external", seed, 2)


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_job_near_its_time_limit_is_saved(tmp_path: Path) -> None:
    """`launch=auto` uses the task's rank. SLURM and submitit may both signal all tasks before the time limit."""
    with Command(tmp_path, (*SUBMITTED, *SMALL, "depth.lag=1", "steps=100000", "checkpoint.every=5")) as command:
        folder = tmp_path / "sweep" / "0"
        command.until(lambda: bool(checkpoint.complete_steps(folder)), "a checkpoint", within=80)
        (controller,) = children(command.process.pid)
        for task in children(controller):
            os.kill(task, signal.SIGUSR2)
            os.kill(task, signal.SIGTERM)
        done = command.finish()
    step = summary_of(folder)["steps"]
    assert done.code == 130, done.err
    assert done.err[-1] == f"dni-train: stopped after step {step}; resume with: dni-train resume={folder}"
    assert checkpoint.complete_steps(folder)[-1] == step


def test_a_job_without_a_result_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = (
        "Job 7 (task: 1) with path x/7_1_result.pkl\nhas not produced any output (state: FINISHED)\nError stream:\n..."
    )
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise UncompletedJobError(output)
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "dni-train: Job 7 (task: 1) with path x/7_1_result.pkl has not produced any output (state: FINISHED); see the "
        "logs of its tasks in the same folder\n"
    )


def test_a_launcher_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes(), initialize_config_module("workers.conf", version_base="1.3"):
        compose("config", ["hydra/launcher=submitit_elsewhere"])
    assert ended.value.code == 2
    assert "Install it with: pip install hydra-submitit-launcher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "at"),
    [
        ({}, None),
        ({"SUBMITIT_LOCAL_JOB_ID": "4711"}, ("127.0.0.1", "24711")),
        ({"SUBMITIT_LOCAL_JOB_ID": "4711", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "a"}, ("127.0.0.1", "24711")),
        ({"SLURM_JOB_ID": "25000", "SLURM_JOB_NODELIST": "gpu[7-9]"}, ("gpu7", "21000")),
        ({"SLURM_JOB_ID": "25000", "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "gpu8", "SLURM_JOB_NODELIST": "gpu7"},
         ("gpu8", "22994")),
        ({"SLURM_JOB_ID": "25000", "SLURM_JOB_NODELIST": "gpu7", "MASTER_PORT": "29500"}, None),
        ({"SLURM_JOB_ID": "25000"}, None),
    ],
)  # fmt: skip
def test_rendezvous_address_of_a_job(environment: dict[str, str], at: tuple[str, str] | None) -> None:
    assert rendezvous_address(environment) == ({} if at is None else {"MASTER_ADDR": at[0], "MASTER_PORT": at[1]})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"), ("node7,node8", "node7"), ("node[003-007,9],other1", "node003"), ("node[5,7]", "node5"),
        ("rack[1-2]node[3,4],x", "rack1node3"), ("a.cluster.example", "a.cluster.example"),
    ],
)  # fmt: skip
def test_the_first_machine_of_a_job(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
