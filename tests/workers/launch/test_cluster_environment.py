"""The rank of a process from its environment, refused environments, and the folder that all stages share."""

from __future__ import annotations

import os
import re

import pytest

from dni.errors import ConfigError
from tests.support.runs import tiny
from workers.config.schema import LaunchMode
from workers.config.settings import Config
from workers.launch.cluster_environment import RankInfo, find_rank, settle_launch
from workers.launch.run_folder import share_folder

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "night",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "77"}
SUBMITIT = {
    "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_JOB_ID": "4711",
}  # fmt: skip
POD = {"DNI_STAGES": "3", "KUBERNETES_SERVICE_HOST": "10.0.0.9", "HOSTNAME": "dni-2"}


def without(environment: dict[str, str], *keys: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key not in keys}


@pytest.mark.parametrize(
    ("environment", "rank_info"),
    [
        ({}, None),
        (TORCHRUN, RankInfo(1, 2, "WORLD_SIZE", True, "night", 2)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, RankInfo(1, 2, "WORLD_SIZE", True, "night", 1)),
        (TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}, RankInfo(1, 2, "WORLD_SIZE", True, None, 2)),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, RankInfo(0, 2, "WORLD_SIZE", True, None, 2)),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node7"}, RankInfo(0, 2, "WORLD_SIZE", True, None, 1)),
        (
            {"RANK": "0", "WORLD_SIZE": "1"},
            RankInfo(0, 1, "WORLD_SIZE", False),
        ),  # a single process may be any job of an engine
        ({"RANK": "0"}, None),
        (SLURM, RankInfo(3, 4, "SLURM_NTASKS", True, "77", 2)),
        (SLURM | TORCHRUN, RankInfo(1, 2, "WORLD_SIZE", True, "night", 2)),  # torchrun within a SLURM job
        (without(SLURM, "SLURM_STEP_ID"), RankInfo(3, 4, "SLURM_NTASKS", False, "77", 2)),  # the batch script itself
        (without(SLURM, "SLURM_NNODES"), RankInfo(3, 4, "SLURM_NTASKS", True, "77", 1)),
        (SUBMITIT, RankInfo(1, 2, "hydra.launcher.tasks_per_node", True, None, 2)),
        (
            SUBMITIT | SLURM,
            RankInfo(1, 2, "hydra.launcher.tasks_per_node", True, None, 2),
        ),  # on one node of a SLURM job
        (SLURM | {"SUBMITIT_EXECUTOR": "slurm"}, RankInfo(3, 4, "SLURM_NTASKS", True, "77", 2)),
        (
            SUBMITIT | {"SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_GLOBALID": "0"},
            RankInfo(0, 1, "hydra.launcher.tasks_per_node", False, None, 1),
        ),
        (POD, RankInfo(2, 3, "DNI_STAGES", True)),
        (POD | {"JOB_COMPLETION_INDEX": "1", "HOSTNAME": "job-1-x8k2"}, RankInfo(1, 3, "DNI_STAGES", True)),
        (POD | {"POD_INDEX": "0"}, RankInfo(0, 3, "DNI_STAGES", True)),
        (without(POD, "DNI_STAGES"), RankInfo(2, None, "DNI_STAGES", False)),
        (POD | {"HOSTNAME": "notebook"}, None),
        ({"HOSTNAME": "node-3"}, None),  # any machine's name
    ],
)
def test_rank_from_the_environment(environment: dict[str, str], rank_info: RankInfo | None) -> None:
    assert find_rank(environment) == rank_info


def external(mode: str = "external", **transport: object) -> Config:
    return tiny(launch={"mode": mode, "torch_threads": None}, transport={"kind": "grpc", **transport})


@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_an_explicit_choice_wins(mode: str) -> None:
    config = external(mode)
    assert settle_launch(config, TORCHRUN) == (config, None)


def test_auto_uses_a_rank_only_if_it_is_certain() -> None:
    config, rank_info = settle_launch(external("auto"), TORCHRUN)
    assert (config.launch.mode, rank_info) == (LaunchMode.external, find_rank(TORCHRUN))
    assert config.torch_threads == max(1, (os.cpu_count() or 1) // 2)  # two of the stages are here
    for alone in ({}, {"RANK": "0", "WORLD_SIZE": "1"}, without(SLURM, "SLURM_STEP_ID"), without(POD, "DNI_STAGES")):
        assert settle_launch(external("auto"), alone) == (external("auto"), None)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "launch=external: the environment does not say which stage this is: start it with torchrun or srun, "
             "set RANK and WORLD_SIZE, or, in a pod, DNI_STAGES"),
        (TORCHRUN | {"WORLD_SIZE": "4"}, "launch=external: WORLD_SIZE sets 4 processes, but stages=2 and every "
                                         "process runs one stage: set stages=4, or start 2 processes"),
        (SLURM, "launch=external: SLURM_NTASKS sets 4 processes, but stages=2 and every process runs one stage: "
                "set stages=4, or start 2 processes"),
        (SUBMITIT | {"SUBMITIT_LOCAL_NTASKS": "3"},
         "launch=external: hydra.launcher.tasks_per_node sets 3 processes, but stages=2 and every process runs "
         "one stage: set stages=3, or start 2 processes"),
        (TORCHRUN | {"RANK": "2"}, "launch=external: this process has rank 2, but WORLD_SIZE allows 0 to 1"),
        (TORCHRUN | {"RANK": "-1"}, "RANK=-1 in the environment must be a number, 0 or more"),
        (without(TORCHRUN, "MASTER_PORT"), "launch=external: the stages cannot find each other: set MASTER_ADDR "
                                           "and MASTER_PORT, or transport.peers=[HOST:PORT,...] with one address per "
                                           "stage"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, "launch=external: the stages appear to be on several machines, "
         "and links are neither encrypted nor authenticated: set transport.tls, or transport.insecure=true if "
         "everyone on that network may read and change this run (or, on one machine, set MASTER_ADDR=localhost)"),
    ],
)  # fmt: skip
def test_a_rank_that_does_not_fit_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        settle_launch(external(), environment)


def test_links_that_cannot_encrypt_need_consent() -> None:
    far = without(TORCHRUN, "LOCAL_WORLD_SIZE")
    with pytest.raises(ConfigError, match=r"authenticated: set transport\.insecure=true if"):
        settle_launch(external(kind="torch_distributed"), far)


def test_several_machines_need_tls_or_consent_and_a_list_needs_no_store() -> None:
    far = without(TORCHRUN, "LOCAL_WORLD_SIZE")
    files = {"tls": {"cert": "c.pem", "key": "k.pem", "ca": "a.pem"}}
    for transport in ({"insecure": True}, files, {"peers": ["localhost:1", "localhost:2"]}):
        assert settle_launch(external(**transport), far)[1] == find_rank(far)


@pytest.mark.parametrize(
    ("arguments", "environment", "more"),
    [
        (["steps=5"], {}, []),
        (["launch=processes"], TORCHRUN, []),
        (["-m", "seed=0,1"], {"RANK": "0", "WORLD_SIZE": "1"}, []),
        (["-m", "hydra/launcher=submitit_slurm", "launch=external"], SLURM, []),  # it submits jobs and is no stage
        (["launch=external"], {}, []),  # refused later, by settle_launch
        ([], TORCHRUN | {"RANK": "0"}, ["hydra.run.dir=outputs/night"]),
        ([], TORCHRUN, ["hydra.run.dir=outputs/night", "hydra.job.name=stage-1"]),
        (["run_id=mine"], SLURM | {"SLURM_PROCID": "0"}, ["hydra.run.dir=outputs/mine"]),
        (["hydra.run.dir=x"], TORCHRUN | {"RANK": "0"}, []),
        (["hydra.run.dir=x"], TORCHRUN, ["hydra.job.name=stage-1"]),
        (["launch.mode=external", "run_id=a"], without(POD, "DNI_STAGES") | {"POD_INDEX": "0"},
         ["hydra.run.dir=outputs/a"]),
    ],
)  # fmt: skip
def test_all_stages_get_the_shared_folder(arguments: list[str], environment: dict[str, str], more: list[str]) -> None:
    assert share_folder(arguments, environment) == [*more, *arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=0,1"], "launch=external runs one stage of one run, but -m starts many"),
        (["--multirun", "launch=external"], "start a job for each"),
        (["run_id=null"], "all stages need one folder: name it with run_id=NAME"),
        (["run_id=../x"], "run_id=../x must be a folder name of letters, digits"),
    ],
)
def test_a_folder_that_cannot_be_shared_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        share_folder(arguments, TORCHRUN)
