"""`dni-train`: compose the settings with Hydra; refuse bad ones with one line and exit code 2 before anything is
written."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from workers.cli.arguments import begin_with, refuse_second_sweep, single_run
from workers.cli.ending import exit_codes, passed_on
from workers.cli.help import print_help
from workers.cli.one_run import begin, run_accepted
from workers.cli.sweep.check import check_sweep
from workers.cli.sweep.launcher import choose_launcher, sweep_outcomes
from workers.cli.sweep.outcome import finish_sweep
from workers.config.convert import register
from workers.config.own_options import choose_own_classes
from workers.launch.accept import Accepted
from workers.launch.cluster_environment import SUBMITTED
from workers.launch.run_folder import share_folder
from workers.system.errors import name_refusals_of_threads


def run_once(config_name: str, overrides: list[str]) -> None:
    """Run once, or run one stage. Hydra composes and logs; it opens no file before the run is accepted."""
    with initialize_config_module("workers.conf", version_base="1.3", job_name="dni"):
        composer = GlobalHydra.instance().hydra
        assert composer is not None
        settings = composer.compose_config(config_name, overrides, RunMode.RUN, with_log_configuration=True)
        run_dir = take_folder(settings)
        with begin(settings, run_dir) as accepted:
            context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(settings))
            run_job(
                lambda _: work(accepted), settings, job_dir_key="hydra.run.dir", job_subdir_key=None,
                hydra_context=context,
            )  # fmt: skip


def take_folder(settings: DictConfig) -> Path:
    """Fix the run's folder: the time in its name is resolved once."""
    with read_write(settings.hydra), open_dict(settings.hydra):
        settings.hydra.mode = RunMode.RUN
    HydraConfig.instance().set_config(settings)
    run_dir = Path(str(settings.hydra.run.dir)).absolute()
    with read_write(settings.hydra), open_dict(settings.hydra):
        settings.hydra.run.dir = str(run_dir).replace("${", "\\${")
    return run_dir


@hydra.main(version_base="1.3", config_path="pkg://workers.conf", config_name="config")
def train(settings: DictConfig) -> None:
    """Run one job of a multirun, in a folder that Hydra has made, or another task of Hydra."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with (
        passed_on()
        if SUBMITTED in os.environ
        else exit_codes(),  # also in main, but Hydra would print its own text first
        begin(settings, run_dir) as accepted,
    ):
        run_accepted(accepted)


def work(accepted: Accepted) -> None:
    """Run as Hydra's job. Exit at once on an expected error, before Hydra prints its own text."""
    with exit_codes():
        run_accepted(accepted)


def main() -> None:
    """Run `dni-train`. Exit codes: 0 done, 1 failed or diverged, 2 settings refused, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own printing
    logging.raiseExceptions = False  # a full disk must not fill the screen with logging errors
    name_refusals_of_threads()
    register()
    with exit_codes():
        if print_help(sys.argv[1:]):
            return
        config_name, recorded = begin_with(sys.argv[1:])
        arguments = choose_own_classes(share_folder(sys.argv[1:], os.environ, recorded))
        overrides = single_run(arguments)
        if overrides is not None:
            run_once(config_name, overrides)
        else:
            run_with_hydra(config_name, arguments)


def run_with_hydra(config_name: str, arguments: list[str]) -> None:
    """Run a sweep, or another task of Hydra. A sweep in processes of this machine ends with its table."""
    refuse_second_sweep(arguments)
    arguments, ours = choose_launcher(arguments)
    if not ours:
        check_sweep(arguments, config_name)
    sys.argv[1:] = [f"--config-name={config_name}", *arguments]
    with sweep_outcomes() as outcomes:
        train()
    finish_sweep(outcomes)
