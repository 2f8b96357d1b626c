"""One run of `dni-train`: apply the rank of an engine, check everything, run the stages, report the result."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from workers.cli.ending import Interrupted
from workers.config.convert import from_any
from workers.config.quoting import resume_command
from workers.config.schema import LogFormat
from workers.config.settings import Config
from workers.launch.accept import Accepted, accept
from workers.launch.cluster_environment import rendezvous_address, settle_launch
from workers.launch.external import run_later_stage
from workers.launch.launcher import Result, run
from workers.system.json_logs import log_in_json

log = logging.getLogger(__name__)


def begin(settings: DictConfig, run_dir: Path) -> AbstractContextManager[Accepted]:
    """Apply the rank that an engine has set, and check everything. Raises ConfigError on entering the block."""
    plain = OmegaConf.to_container(settings)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    return begin_with_config(from_any(plain), run_dir)


def begin_with_config(
    given: Config, run_dir: Path, torch_threads: int | None = None
) -> AbstractContextManager[Accepted]:
    """As `begin`, with typed settings. `torch_threads` per stage apply, unrecorded, if the settings name no number."""
    rendezvous = rendezvous_address(os.environ)
    config, rank_info = settle_launch(given, {**os.environ, **rendezvous})
    if config.launch.torch_threads is None:
        config = replace(config, launch=replace(config.launch, torch_threads=torch_threads))
    os.environ.update(rendezvous if rank_info is not None else {})
    return accept(config, run_dir, rank_info, given.launch)


def run_accepted(accepted: Accepted) -> None:
    """Run all stages, or the stage of this process, and report the result."""
    rank_info = accepted.rank_info
    set_log_format(accepted)
    if rank_info is not None and rank_info.rank:
        run_later_stage(accepted.config, accepted.run_dir, rank_info)
    else:
        report(run(accepted), accepted.run_dir)


def set_log_format(accepted: Accepted) -> None:
    """Log in JSON from here on, if the settings say so."""
    if accepted.config.tracking.log_format is LogFormat.json:
        log_in_json(accepted.run_dir.name, None if accepted.rank_info is None else accepted.rank_info.rank)


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
