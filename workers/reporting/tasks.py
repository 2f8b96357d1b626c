"""Flatten a run's settings, and separate runs by task: each task has a table of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from workers.config.plugins import TARGET
from workers.tracking.run import Run
from workers.tracking.sittings import KIND, id_of_folder

#: facts of a summary that distinguish runs, the most telling first
FACTS = ("window", "lag", "stages", "transport", "delay_ms", "experiment", "launch")
#: settings that do not distinguish runs, by the last part of their name
OF_ONE_RUN = {
    "seed",
    "run_id",
    "run_dir",
    "output_dir",
    "resume",
    "resume_step",
    "bind",
    "peers",
    "profile",
    "profile_after",
    "profile_steps",
}
#: the settings that define a task: its data, its model, and the length of training
TASK = (
    "data.name", "model.kind", "steps", "max_timesteps", "data.sha256", "data.kind", "data.length", "data.side",
    "data.block_length", "model.units", "model.layers", "model.heads", "model.memory",
)  # fmt: skip
#: sections whose class is shown by its name
KINDS = ("data", "model")
#: interrupted runs have a row of their own
CUT_SHORT = "interrupted"


def settings_of(run: Run) -> dict[str, str]:
    """Return a run's settings by dotted key, from its record and summary; `steps` is the requested number if known."""
    summary = run.summary or {}
    facts = {key: summary[key] for key in ("method", "data", "seed", *FACTS) if key in summary}
    steps = run.config.get("steps", summary.get("steps"))
    flat = dict(_named(dict(_flatten(run.config)))) | dict(_flatten(facts | {"steps": steps}))
    flat["method"] = f"{flat.get('method.depth')} + {flat.get('method.time')}"
    return flat | {CUT_SHORT: str(bool(summary.get("interrupted")))}


def _named(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Rename `model._target_` to `model.kind`, with the name of the class, as earlier versions recorded it."""
    for key, value in settings.items():
        section, _, last = key.rpartition(".")
        yield (f"{section}.kind", _name_of(value)) if last == TARGET and section in KINDS else (key, value)


def _name_of(target: str) -> str:
    """Return a package class's `name`, or the class name of a user's class, which is not imported."""
    module, _, name = target.rpartition(".")
    cls = getattr(import_module(module), name, None) if module.startswith("dni.") else None
    return str(getattr(cls, "name", name))


def separates_runs(key: str) -> bool:
    """Return whether a difference in this setting separates runs; a seed or a folder does not."""
    return key.rpartition(".")[2] not in OF_ONE_RUN


def titles_of(tasks: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a title for each task from the settings of one of its runs: data, model, length, and more if needed."""
    short = [_title(task) for task in tasks]
    titles = []
    for title, task in zip(short, tasks, strict=True):
        alike = [other for name, other in zip(short, tasks, strict=True) if name == title]
        telling = [key for key in TASK if len({other.get(key, "-") for other in alike}) > 1]
        titles.append(", ".join([title, *(f"{key}={task.get(key, '-')[:12]}" for key in telling)]))
    return titles


def _title(task: Mapping[str, str]) -> str:
    data, model, streams = (task.get(key, "-") for key in ("data.name", "model.kind", "max_timesteps"))
    length = f"{task.get('steps', '-')} steps" if streams in ("-", "none") else f"{streams} time steps a stream"
    return ", ".join([*(part for part in (data, model) if part != "-"), length])


def run_id(run: Run) -> str:
    """Return the id that a run shares with the runs that resume it."""
    opened = (record["id"] for record in run.metrics if record.get("kind") == KIND and "id" in record)
    return str((run.summary or {}).get("id") or next(opened, None) or id_of_folder(run.path))


def steps_done(run: Run) -> int:
    """Return the number of steps from its summary, or from its newest record."""
    done = (run.summary or {}).get("steps")
    return max((record["step"] for record in run.metrics), default=0) if done is None else int(done)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
