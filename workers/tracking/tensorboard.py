"""TensorBoard events of a run: curves whose names do not depend on the number of stages, and the settings at its end.

loss/train, loss/validation           of the whole model; so too bits_per_label/..., accuracy/validation and every
                                      metric by its name, top5/validation say
rate/learning_rate, rate/steps_per_s  as the last stage has them
stage_k/...                           all else that stage k reports: gradient_norm, staleness, busy, own_loss, ...
final/...                             the figures of the summary, which belong to the run's settings (HParams)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FOLDER = "tensorboard"

#: Ends the name of the event file with settings and final figures; there is one at most.
SETTINGS_FILE = ".settings"

Record = Mapping[str, Any]

_SPLITS = {"train": "train", "valid": "validation"}
_PREFIXES = {"train": "", "valid": "validation_", "own": "own_", "probe": "probe_"}
_RATES = ("learning_rate", "steps_per_s")


class TensorBoardWriter:
    """Writes a scalar for every number of a record, by step.

    Args:
        run_dir: the run's folder; events go into its `tensorboard/`.
        stages: K; the last stage reports for the whole model.
        earlier: the records of a resumed run up to the step it goes on from. Where the folder holds events, those after
            these records no longer count; where it holds none, the curves begin with these records.
    """

    def __init__(self, run_dir: Path, stages: int, earlier: Sequence[Record] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import: only when needed

        self._last, folder = stages - 1, run_dir / FOLDER
        goes_on = any(not file.name.endswith(SETTINGS_FILE) for file in folder.glob("events.*"))
        newest = max((int(record["step"]) for record in earlier), default=0)
        self._writer: Any = SummaryWriter(str(folder), flush_secs=10, purge_step=newest + 1 if goes_on else None)
        if not goes_on:
            self._repeat(earlier)

    def show(self, record: Record) -> None:
        """Take one record. A checkpoint brings all that came before it to the disk, for a run may be resumed there."""
        if record.get("kind") == "checkpoint":
            self._writer.flush()
        self._add(record, time.time())

    def close(self) -> None:
        self._writer.close()

    def _repeat(self, earlier: Sequence[Record]) -> None:
        """Records of another folder, at the times they would have had if that run had ended just now."""
        seconds = [float(record.get("wall_s") or 0.0) for record in earlier]
        start = time.time() - max(seconds, default=0.0)
        for record, wall_s in zip(earlier, seconds, strict=True):
            self._add(record, start + wall_s)

    def _add(self, record: Record, at: float) -> None:
        for tag, value in scalars(record, self._last):
            self._writer.add_scalar(tag, value, record["step"], walltime=at)


def scalars(record: Record, last: int) -> Iterator[tuple[str, float]]:
    """The numbers of a record with their tags. `last`: the index of the last stage."""
    kind = record.get("kind")
    for name, value in (record.get("metrics") or {}).items():
        if isinstance(value, int | float):
            yield f"{name}/validation", value
    for name, value in record.items():
        if kind not in _PREFIXES or name in ("stage", "step") or not isinstance(value, int | float):
            continue
        if record["stage"] == last and kind in _SPLITS and _of_the_model(name):
            yield f"{name}/{_SPLITS[kind]}", value
        elif record["stage"] == last and name in _RATES:
            yield f"rate/{name}", value
        else:
            yield f"stage_{record['stage']}/{_PREFIXES[kind]}{name}", value


def _of_the_model(name: str) -> bool:
    return name in ("loss", "accuracy") or name.startswith("bits_per_")


def keep_settings(run_dir: Path, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """`write_settings`; a failure is logged, for by then the run is complete."""
    try:
        write_settings(run_dir, settings, summary)
    except Exception as error:
        log.warning("TensorBoard has no settings of %s: %r", run_dir, error)


def write_settings(run_dir: Path, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write the settings (nested) with the final figures of `summary.json`, in the place of those of an earlier end."""
    from torch.utils.tensorboard import FileWriter
    from torch.utils.tensorboard.summary import hparams, scalar

    folder, figures = run_dir / FOLDER, final_figures(summary)
    for earlier in folder.glob(f"events.*{SETTINGS_FILE}"):
        earlier.unlink()
    writer: Any = FileWriter(str(folder), filename_suffix=SETTINGS_FILE)
    for part in hparams(dict(_flat(settings)), figures):  # type: ignore[no-untyped-call]
        writer.add_summary(part)
    for tag, value in figures.items():
        writer.add_summary(scalar(tag, value), summary["steps"] or 0)  # type: ignore[no-untyped-call]
    writer.close()
    (written,) = folder.glob(f"events.*{SETTINGS_FILE}")
    # files are read in the order of their names, and what resumes a curve drops what was read before it
    written.rename(folder / f"events.out.tfevents.{int(time.time()) + 1:010d}{SETTINGS_FILE}")


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """The losses, bits and rates of a summary, by tag: `final/validation_loss`, `final/tokens_per_s` and so on."""
    found = {"tokens_per_s": summary.get("tokens_per_s"), "wall_s": summary.get("wall_s")}
    for name, section in (("train", "train"), ("validation", "valid"), ("best", "best")):
        own = summary.get(section) or {}
        found |= {f"{name}_{key}": value for key, value in {**own, **(own.get("metrics") or {})}.items()}
    return {f"final/{key}": value for key, value in found.items() if isinstance(value, int | float)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted key; HParams has no lists, so they become text."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, list) else value
