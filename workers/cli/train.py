"""`dni-train`: compose the settings with Hydra; refuse bad ones with one line and exit code 2 before anything is
written."""

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
from workers.cli.help import print_help
from workers.cli.sweep import check_sweep, log_remaining
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
    """Raised for a run that was stopped from outside and has saved its state."""


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
        log_remaining(run_dir),
        begin(settings, run_dir) as accepted,
    ):
        run_accepted(accepted)


def begin(settings: DictConfig, run_dir: Path) -> AbstractContextManager[Accepted]:
    """Apply the rank that an engine has set, and check everything. Raises ConfigError on entering the block."""
    rendezvous = rendezvous_address(os.environ)
    plain = OmegaConf.to_container(settings)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    given = from_any(plain)
    config, rank_info = settle_launch(given, {**os.environ, **rendezvous})
    os.environ.update(rendezvous if rank_info is not None else {})
    return accept(config, run_dir, rank_info, given.launch)


def work(accepted: Accepted) -> None:
    """Run as Hydra's job. Exit at once on an expected error, before Hydra prints its own text."""
    with exit_codes():
        run_accepted(accepted)


def run_accepted(accepted: Accepted) -> None:
    """Run all stages, or the stage of this process, and report the result."""
    rank_info = accepted.rank_info
    if rank_info is not None and rank_info.rank:
        run_later_stage(accepted.config, accepted.run_dir, rank_info)
    else:
        report(run(accepted), accepted.run_dir)


def report(result: Result, run_dir: Path) -> None:
    """Log the result of a run. Raises Interrupted if it was interrupted."""
    done, valid = result.summary["steps"], result.summary["valid"]
    right = valid["accuracy"]
    if result.interrupted:
        raise Interrupted(f"stopped after step {done}; resume with: {resume_command(run_dir)}")
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
            refuse_second_sweep(arguments)
            check_sweep(arguments, explain, config_name)
            sys.argv[1:] = [f"--config-name={config_name}", *arguments]
            train()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn every expected error into one line and its exit code."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ConfigError) as error:
        leave(2, explain(error))
    except Interrupted as error:
        leave(130, str(error))
    except DniError as error:
        leave(1, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        leave(130, "stopped without saving; the last checkpoint remains")
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is not None:  # from Hydra before or after the run: inside a run it is a DniError
            leave(2, str(refusal))
        if type(error).__name__ != "UncompletedJobError":  # submitit's, by name: it may not be installed
            raise
        leave(1, f"{' '.join(str(error).splitlines()[:2])}; see the logs of its tasks in the same folder")


@contextmanager
def passed_on() -> Iterator[None]:
    """In a submitit job, print an error to the task's log and pass it on to the submitting process."""
    try:
        yield
    except DniError as error:
        sys.stderr.write(f"dni-train: {type(error).__name__}: {error}\n")
        raise


def explain(error: BaseException) -> str:
    """Return one line: the refused setting, the reason, and the alternatives."""
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
    """Print one line and exit."""
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"dni-train: {' '.join(message.splitlines())}\n")
    sys.exit(code)
