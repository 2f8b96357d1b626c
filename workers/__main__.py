"""`dni-train`, the one entry point: settings through Hydra, every refusal as one line and exit code 2."""

from __future__ import annotations

import os
import sys

# `python -m workers` puts the current folder first; what lies there is no part of a run, unless it is this package.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False) and sys.path[0] == os.getcwd() != _HOME:
    del sys.path[0]

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError, DniError
from workers.config import from_any, one_line, register, setting_names
from workers.help import answered
from workers.launcher import Result, launch, launch_later_stage
from workers.meeting import meeting_point
from workers.refusals import as_refusal, name_refusals_of_threads
from workers.seat import SUBMITTED, settle_launch
from workers.shared_folder import share_folder
from workers.suggest import suggestion
from workers.sweep import check_sweep, what_is_left

log = logging.getLogger(__name__)


class Interrupted(DniError):
    """The run was stopped from outside and has saved its state."""


@hydra.main(version_base="1.3", config_path="pkg://workers.conf", config_name="config")
def train(settings: DictConfig) -> None:
    """One run in Hydra's output folder, or one stage of it."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with passed_on() if SUBMITTED in os.environ else exit_codes():  # in main as well, but Hydra would print first
        meeting = meeting_point(os.environ)
        config, seat = settle_launch(from_any(OmegaConf.to_container(settings)), {**os.environ, **meeting})
        os.environ.update(meeting if seat is not None else {})
        if seat is not None and seat.rank:
            launch_later_stage(config, run_dir, seat)
        else:
            with what_is_left(run_dir):
                report(launch(config, run_dir, seat), run_dir)


def report(result: Result, run_dir: Path) -> None:
    """Say what a run came to. Raises Interrupted if it was."""
    done, valid = result.summary["steps"], result.summary["valid"]
    bits, right = valid["bits_per_label"], valid["accuracy"]
    if result.interrupted:
        raise Interrupted(f"stopped after step {done}; go on with: dni-train resume={run_dir}")
    reached = "" if bits is None else f", validation {bits:.3f} bits per label"
    reached += "" if right is None else f", {right:.1%} right"
    why = ", out of patience" if result.summary["ended"] == "patience" else ""
    log.info("step %s%s%s: %s", done, reached, why, run_dir)


def main() -> None:
    """Run `dni-train`. Exit codes: 0 done, 1 failed on the way or diverged, 2 settings refused, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own printing
    logging.raiseExceptions = False  # a log that cannot be written (a full disk) does not fill the screen
    name_refusals_of_threads()
    register()
    with exit_codes():
        if answered(sys.argv[1:]):
            return
        sys.argv[1:] = share_folder(with_resumed_overrides(sys.argv[1:]), os.environ)
        check_sweep(sys.argv[1:], explain)
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


def with_resumed_overrides(arguments: list[str]) -> list[str]:
    """With `resume=RUN_DIR`, the overrides that run was started with come first, unless given anew.

    Raises ConfigError if the folder holds no record of them.
    """
    folder = next((a.removeprefix("resume=") for a in arguments if a.startswith("resume=")), None)
    if folder in (None, "null"):
        return arguments
    record = Path(str(folder)) / ".hydra" / "overrides.yaml"
    if not record.is_file():
        raise ConfigError(f"resume={folder}: {record} is missing; give the folder of a run of dni-train")
    given = {a.split("=")[0].lstrip("+") for a in arguments} | {"resume", "resume_step", "start_from", "start_step"}
    before = [str(override) for override in OmegaConf.load(record)]
    return [o for o in before if o.split("=")[0].lstrip("+") not in given] + arguments


def explain(error: BaseException) -> str:
    """One line: what was refused, why, and what there is instead."""
    text = str(error).split("Config search path")[0].split("To append to your config")[0]
    message = " ".join(text.split())
    if isinstance(error, ConfigCompositionException):
        cause = "" if error.__cause__ is None else one_line(error.__cause__)
        missing = "hydra/launcher/submitit_" in message
        cause += " Install it with: pip install hydra-submitit-launcher" if missing else ""
        hint = suggestion(f"{message} {cause}", setting_names())
        return f"{message} {cause}{hint} (all settings: dni-train --cfg job)"
    return message


def leave(code: int, message: str) -> NoReturn:
    """Say one line and exit."""
    sys.stderr.write(f"dni-train: {' '.join(message.splitlines())}\n")
    sys.exit(code)


if __name__ == "__main__":
    from workers.__main__ import main as main_by_name  # so that jobs that are submitted can name what they run

    main_by_name()
