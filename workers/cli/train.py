"""`dni-train`: settings through Hydra, every refusal as one line and exit code 2 before anything is written."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError, DniError
from workers.cli.arguments import begin_with, refuse_second_sweep, single_run
from workers.cli.help import answered
from workers.cli.sweep import check_sweep, what_is_left
from workers.config.convert import from_any, one_line, options_by_setting, register
from workers.config.own_options import choose_own_classes
from workers.config.quoting import how_to_type, resume_command
from workers.config.suggest import suggestion
from workers.launch.accept import Accepted, accept
from workers.launch.cluster_environment import SUBMITTED, settle_launch
from workers.launch.external import run_later_stage
from workers.launch.launcher import Result, run
from workers.launch.rendezvous import rendezvous_address
from workers.launch.run_folder import share_folder
from workers.system.errors import as_refusal, name_refusals_of_threads

log = logging.getLogger(__name__)


class Interrupted(DniError):
    """The run was stopped from outside and has saved its state."""


def run_once(config_name: str, overrides: list[str]) -> None:
    """One run, or one stage of it. Hydra composes and logs; it opens no folder or file before the run is accepted."""
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
    """The run's folder, which is from now on the same, however often the time in its name is asked for."""
    with read_write(settings.hydra), open_dict(settings.hydra):
        settings.hydra.mode = RunMode.RUN
    HydraConfig.instance().set_config(settings)
    run_dir = Path(str(settings.hydra.run.dir)).absolute()
    with read_write(settings.hydra), open_dict(settings.hydra):
        settings.hydra.run.dir = str(run_dir).replace("${", "\\${")
    return run_dir


@hydra.main(version_base="1.3", config_path="pkg://workers.conf", config_name="config")
def train(settings: DictConfig) -> None:
    """One job of a multirun, in a folder that Hydra has made; or what else Hydra was asked for."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with (
        passed_on() if SUBMITTED in os.environ else exit_codes(),  # in main as well, but Hydra would print first
        what_is_left(run_dir),
        begin(settings, run_dir) as accepted,
    ):
        run_accepted(accepted)


def begin(settings: DictConfig, run_dir: Path) -> AbstractContextManager[Accepted]:
    """Take the seat that an engine offers, and have all checked. Raises ConfigError as the block is entered."""
    meeting = rendezvous_address(os.environ)
    plain = OmegaConf.to_container(settings)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    asked = from_any(plain)
    config, rank_info = settle_launch(asked, {**os.environ, **meeting})
    os.environ.update(meeting if rank_info is not None else {})
    return accept(config, run_dir, rank_info, asked.launch)


def work(accepted: Accepted) -> None:
    """As Hydra's job. An error that was foreseen leaves at once, before Hydra prints something of its own."""
    with exit_codes():
        run_accepted(accepted)


def run_accepted(accepted: Accepted) -> None:
    """Run all stages, or the one that is here, and say what came of it."""
    rank_info = accepted.rank_info
    if rank_info is not None and rank_info.rank:
        run_later_stage(accepted.config, accepted.run_dir, rank_info)
    else:
        report(run(accepted), accepted.run_dir)


def report(result: Result, run_dir: Path) -> None:
    """Say what a run came to. Raises Interrupted if it was."""
    done, valid = result.summary["steps"], result.summary["valid"]
    right = valid["accuracy"]
    if result.interrupted:
        raise Interrupted(f"stopped after step {done}; go on with: {resume_command(run_dir)}")
    reached = _validated(valid)
    reached += "" if right is None else f", {right:.1%} right"
    why = ", out of patience" if result.summary["ended"] == "patience" else ""
    log.info("step %s%s%s: %s", done, reached, why, run_dir)


def _validated(valid: Mapping[str, Any]) -> str:
    if "unit" in valid and valid["loss"] is not None:
        return f", validation loss {valid['loss']:.4f} {valid['unit']}"
    bits = valid["bits_per_label"]
    return "" if bits is None else f", validation {bits:.3f} bits per label"


def main() -> None:
    """Run `dni-train`. Exit codes: 0 done, 1 failed on the way or diverged, 2 settings refused, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own printing
    logging.raiseExceptions = False  # a log that cannot be written (a full disk) does not fill the screen
    name_refusals_of_threads()
    register()
    with exit_codes():
        if answered(sys.argv[1:]):
            return
        config_name, recorded = begin_with(sys.argv[1:])
        arguments = choose_own_classes(share_folder(sys.argv[1:], os.environ, recorded))
        overrides = single_run(arguments)
        if overrides is not None:
            run_once(config_name, overrides)
        else:
            refuse_second_sweep(arguments)
            check_sweep(arguments, explain, config_name)
            sys.argv[1:] = [f"--config-name={config_name}", *arguments]
            train()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Every error that was foreseen ends as one line and its exit code."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ConfigError) as error:
        leave(2, explain(error))
    except Interrupted as error:
        leave(130, str(error))
    except DniError as error:
        leave(1, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        leave(130, "stopped at once; nothing was saved after the last checkpoint")
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is not None:  # of Hydra, before the run or after it: what a run meets is a DniError
            leave(2, str(refusal))
        if type(error).__name__ != "UncompletedJobError":  # of submitit, which need not be installed
            raise
        leave(1, f"{' '.join(str(error).splitlines()[:2])}; the logs of its tasks lie beside it")


@contextmanager
def passed_on() -> Iterator[None]:
    """In a job of submitit: an error goes into the log of the task, and as it is to the process that has submitted."""
    try:
        yield
    except DniError as error:
        sys.stderr.write(f"dni-train: {type(error).__name__}: {error}\n")
        raise


def explain(error: BaseException) -> str:
    """One line: what was refused, why, and what there is instead."""
    text = str(error).split("Config search path")[0].split("To append to your config")[0]
    message = " ".join(text.split("\nSee https://hydra.cc")[0].split())
    if isinstance(error, OverrideParseException):
        named = message if error.override in message else f"Error parsing override '{error.override}' {message}"
        return f"{named}; {how_to_type(error.override)}"
    if isinstance(error, ConfigCompositionException):
        cause = "" if error.__cause__ is None else one_line(error.__cause__)
        missing = "hydra/launcher/submitit_" in message
        cause += " Install it with: pip install hydra-submitit-launcher" if missing else ""
        hint = suggestion(f"{message} {cause}", options_by_setting())
        return f"{message} {cause}{hint} (all settings: dni-train --cfg job)"
    return message


def leave(code: int, message: str) -> NoReturn:
    """Say one line and exit."""
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"dni-train: {' '.join(message.splitlines())}\n")
    sys.exit(code)
