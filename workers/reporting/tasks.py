"""What a run was asked to do, as flat settings, and which of them are its task: tasks share no table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from workers.config.plugins import TARGET
from workers.tracking.run import Run
from workers.tracking.sittings import KIND, id_of_folder

#: facts of a summary that set runs apart, the most telling first
FACTS = ("window", "lag", "stages", "transport", "delay_ms", "experiment", "launch")
#: settings that do not set runs apart, by the last part of their name
OF_ONE_RUN = {"seed", "run_id", "run_dir", "output_dir", "resume", "resume_step", "bind", "peers"}
#: the settings that make a task: its data, its model, and how long is trained
TASK = (
    "data.name", "model.kind", "steps", "max_timesteps", "data.sha256", "data.kind", "data.length", "data.side",
    "data.block_length", "model.units", "model.layers", "model.heads", "model.memory",
)  # fmt: skip
#: sections whose class has a name
KINDS = ("data", "model")
#: runs that were interrupted have a row of their own
CUT_SHORT = "interrupted"


def settings_of(run: Run) -> dict[str, str]:
    """By dotted key, from configuration and summary; `steps` are those that were asked for, where that is known."""
    summary = run.summary or {}
    facts = {key: summary[key] for key in ("method", "data", "seed", *FACTS) if key in summary}
    steps = run.config.get("steps", summary.get("steps"))
    flat = dict(_named(dict(_flatten(run.config)))) | dict(_flatten(facts | {"steps": steps}))
    flat["method"] = f"{flat.get('method.depth')} + {flat.get('method.time')}"
    return flat | {CUT_SHORT: str(bool(summary.get("interrupted")))}


def _named(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """With the names of classes in the places where earlier versions had them: `model.kind` for `model._target_`."""
    for key, value in settings.items():
        section, _, last = key.rpartition(".")
        yield (f"{section}.kind", _name_of(value)) if last == TARGET and section in KINDS else (key, value)


def _name_of(target: str) -> str:
    """The name that a class of the package gives itself; of a user's class, which is not imported, that of the class"""
    module, _, name = target.rpartition(".")
    cls = getattr(import_module(module), name, None) if module.startswith("dni.") else None
    return str(getattr(cls, "name", name))


def tells_apart(key: str) -> bool:
    """Whether runs that differ in this setting are different settings, and not one setting with other seeds."""
    return key.rpartition(".")[2] not in OF_ONE_RUN


def titles_of(tasks: Sequence[Mapping[str, str]]) -> list[str]:
    """A title for each task, from the settings of a run of it: data, model, length, and what else it takes."""
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
    """What a run shares with the runs that go on from it."""
    opened = (record["id"] for record in run.metrics if record.get("kind") == KIND and "id" in record)
    return str((run.summary or {}).get("id") or next(opened, None) or id_of_folder(run.path))


def steps_done(run: Run) -> int:
    """How far it has come: by its summary, or by its newest record."""
    done = (run.summary or {}).get("steps")
    return max((record["step"] for record in run.metrics), default=0) if done is None else int(done)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
