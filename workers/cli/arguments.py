"""From the words of a command to its settings, by Hydra; of a run that goes on, its record is where they begin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dni.errors import ConfigError
from workers.config.convert import open_schema, to_plain
from workers.config.own_options import RECORDED, offer, withdraw
from workers.config.quoting import as_text
from workers.config.settings import Config
from workers.resume.resume import before_resume
from workers.storage.record import to_resume

#: The primary configs in `conf/`.
FRESH, RESUMED = "config", "resumed"

#: Groups whose options say all of a section; one within another (OUTER/INNER) comes before it.
REPLACED = (
    "model", "data", "loss", "depth", "time", "predictor/depth", "predictor/time", "predictor", "optimizer/schedule",
    "optimizer", "transport",
)  # fmt: skip

#: Groups whose options are made of options of the groups within.
MADE_OF = {"predictor": ("depth", "time")}


def begin_with(arguments: Sequence[str]) -> tuple[str, Config | None]:
    """The primary config for a command, and with `resume=RUN` the record of that run, which it then begins with.

    A group that is given anew replaces the section of the record. Raises ResumeError if the folder has no record or a
    damaged one, ConfigError if the words name no one folder.
    """
    withdraw()
    folder = resumed_folder(arguments)
    if folder is None:
        return FRESH, None
    recorded = to_resume(before_resume(folder))
    plain = as_text(to_plain(recorded))
    for group in REPLACED:
        inner = [{one: RECORDED} for one in MADE_OF.get(group, ())]
        offer(group, RECORDED, {**({"defaults": inner} if inner else {}), **_taken_out(plain, group)})
    ConfigStore.instance().store(name=RECORDED, node=OmegaConf.merge(open_schema(), OmegaConf.create(plain)))
    return RESUMED, recorded


def _taken_out(settings: dict[str, Any], group: str) -> dict[str, Any]:
    *outer, name = group.split("/")
    for part in outer:
        settings = settings[part]
    section: dict[str, Any] = settings.pop(name)
    return section


def resumed_folder(arguments: Sequence[str]) -> Path | None:
    """What the last `resume=` names. Raises ConfigError for several folders, HydraException for what is not quoted."""
    given = [word for word in arguments if word.partition("=")[0].lstrip("+").strip() == "resume"]
    if not given:
        return None
    override = OverridesParser.create().parse_overrides(given)[-1]
    if override.is_sweep_override():
        raise ConfigError(f"{given[-1]}: one run goes on at a time; a folder with a comma in its name needs quotes")
    value = OmegaConf.create({"resume": override.value()})["resume"]
    return None if value is None else Path(str(value))


def single_run(arguments: Sequence[str]) -> list[str] | None:
    """The overrides of a command that is one run; None if it asks Hydra for something else (`-m`, `--cfg` ...)."""
    asked = vars(get_args_parser().parse_args([*arguments]))
    overrides: list[str] = asked.pop("overrides")
    asked.pop("run")
    several = any(word.startswith("hydra.mode=") for word in overrides)
    return None if several or any(asked.values()) else overrides


def refuse_second_sweep(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a sweep into a folder that holds one: Hydra would write over what it says of the first."""
    named = [word for word in arguments if word.startswith("hydra.sweep.dir=")]
    if not named or not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments}:
        return  # a folder that is not named has the time in its name
    folder = Path(str(OverridesParser.create().parse_overrides(named)[-1].value()))
    if (folder / "multirun.yaml").exists():
        raise ConfigError(f"{folder} already holds a sweep: name another hydra.sweep.dir")
