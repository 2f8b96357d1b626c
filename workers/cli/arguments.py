"""Turn a command's arguments into settings, with Hydra; a resumed run starts from its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dni.errors import ConfigError
from workers.cli.sweep.index import INDEX
from workers.config.convert import open_schema, to_plain
from workers.config.own_options import RECORDED, offer, withdraw
from workers.config.quoting import as_text
from workers.config.settings import Config
from workers.resume.resume import before_resume
from workers.storage.record import to_resume

#: The primary configs in `conf/`.
FRESH, RESUMED = "config", "resumed"

#: Groups whose options set a whole section; an inner group (OUTER/INNER) comes before its outer one.
REPLACED = (
    "model", "data", "loss", "depth", "time", "predictor/depth", "predictor/time", "predictor", "optimizer/schedule",
    "optimizer", "transport",
)  # fmt: skip

#: Groups whose options consist of options of inner groups.
MADE_OF = {"predictor": ("depth", "time")}


def begin_with(arguments: Sequence[str]) -> tuple[str, Config | None]:
    """Return the primary config of a command, and with `resume=RUN` the record that the command starts from.

    A group given on the command line replaces the recorded section. Raises ResumeError if the folder has no record or a
    damaged one, ConfigError if `resume` names several folders.
    """
    withdraw()
    folder = resumed_folder(arguments)
    if folder is None:
        return FRESH, None
    recorded = to_resume(before_resume(folder))
    plain = as_text(to_plain(recorded))
    for group in REPLACED:
        inner = [{one: RECORDED} for one in MADE_OF.get(group, ())]
        offer(group, RECORDED, {**({"defaults": inner} if inner else {}), **_pop_section(plain, group)})
    ConfigStore.instance().store(name=RECORDED, node=OmegaConf.merge(open_schema(), OmegaConf.create(plain)))
    return RESUMED, recorded


def _pop_section(settings: dict[str, Any], group: str) -> dict[str, Any]:
    *outer, name = group.split("/")
    for part in outer:
        settings = settings[part]
    section: dict[str, Any] = settings.pop(name)
    return section


def resumed_folder(arguments: Sequence[str]) -> Path | None:
    """Return the folder of the last `resume=`. Raises ConfigError for several folders, HydraException for bad
    quoting."""
    given = [word for word in arguments if word.partition("=")[0].lstrip("+").strip() == "resume"]
    if not given:
        return None
    override = OverridesParser.create().parse_overrides(given)[-1]
    if override.is_sweep_override():
        raise ConfigError(f"{given[-1]}: resume takes one run; quote a folder with a comma in its name")
    value = OmegaConf.create({"resume": override.value()})["resume"]
    return None if value is None else Path(str(value))


def single_run(arguments: Sequence[str]) -> list[str] | None:
    """Return the overrides of a command for one run; None if it asks Hydra for something else (`-m`, `--cfg` ...)."""
    flags = vars(get_args_parser().parse_args([*arguments]))
    overrides: list[str] = flags.pop("overrides")
    flags.pop("run")
    several = any(word.startswith("hydra.mode=") for word in overrides)
    return None if several or any(flags.values()) else overrides


def refuse_second_sweep(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a sweep into a folder that holds one which cannot be resumed: Hydra would overwrite the
    first one's multirun.yaml."""
    named = [word for word in arguments if word.startswith("hydra.sweep.dir=")]
    if not named or not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments}:
        return  # the default folder has the time in its name
    folder = Path(str(OverridesParser.create().parse_overrides(named)[-1].value()))
    if (folder / "multirun.yaml").exists() and not (folder / INDEX).exists():
        raise ConfigError(f"{folder} already holds a sweep: name another hydra.sweep.dir")
