"""TensorBoard events of a run, with names that do not depend on the number of stages, and its final settings.

loss/train, loss/validation           of the whole model; also bits_per_label/..., accuracy/validation and each metric
                                      by its name, such as top5/validation
rate/learning_rate, rate/steps_per_s  of the last stage
activations/LAYER, gradients/LAYER    histograms, with tracking.histograms
settings                              the run's `config.yaml`, as text
stage_k/...                           all other figures of stage k: gradient_norm, staleness, busy, own_loss, ...
final/...                             the figures of the summary, stored with the run's settings (HParams)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.storage.record import CONFIG
from workers.tracking.histograms import KIND as HISTOGRAMS
from workers.tracking.sittings import last_stages

log = logging.getLogger(__name__)

FOLDER = "tensorboard"

#: Suffix of the one event file with settings and final figures.
SETTINGS_FILE = ".settings"

Record = Mapping[str, Any]

_SPLITS = {"train": "train", "valid": "validation"}
_PREFIXES = {"train": "", "valid": "validation_", "own": "own_", "probe": "probe_"}
_RATES = ("learning_rate", "steps_per_s")


class TensorBoardWriter:
    """Write a scalar for every number of a record, by step.

    Args:
        run_dir: the run's folder; events go into its `tensorboard/`
        stages: K; the last stage reports for the whole model
        earlier: the records of a resumed run up to its checkpoint. If the folder holds events, those after these
            records are purged; if it holds none, these records are written first.
    """

    def __init__(self, run_dir: Path, stages: int, earlier: Sequence[Record] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._last, folder = stages - 1, run_dir / FOLDER
        goes_on = any(not file.name.endswith(SETTINGS_FILE) for file in folder.glob("events.*"))
        newest = max((int(record["step"]) for record in earlier), default=0)
        self._writer: Any = SummaryWriter(str(folder), flush_secs=10, purge_step=newest + 1 if goes_on else None)
        if not goes_on:
            self._repeat(earlier)
            self._add_settings(run_dir / CONFIG)

    def show(self, record: Record) -> None:
        """Write one record. A checkpoint flushes all events to the disk, because a run may be resumed there."""
        if record.get("kind") == "checkpoint":
            self._writer.flush()
        self._add(record, time.time())

    def close(self) -> None:
        self._writer.close()

    def _add_settings(self, path: Path) -> None:
        """Write the settings as text. Four spaces mark a literal block."""
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            self._writer.add_text("settings", "\n".join(f"    {line}" for line in lines))

    def _repeat(self, earlier: Sequence[Record]) -> None:
        """Write the records of another folder, with the times they would have if that run had ended just now."""
        seconds = [float(record.get("wall_s") or 0.0) for record in earlier]
        start = time.time() - max(seconds, default=0.0)
        for record, wall_s, last in zip(earlier, seconds, last_stages(earlier), strict=True):
            self._add(record, start + wall_s, last)

    def _add(self, record: Record, at: float, last: int | None = None) -> None:
        """`last`: the last stage, where there were others than now."""
        for tag, value in scalars(record, self._last if last is None else last):
            self._writer.add_scalar(tag, value, record["step"], walltime=at)
        for what in ("activations", "gradients") if record.get("kind") == HISTOGRAMS else ():
            for layer, found in record[what].items():
                self._writer.add_histogram_raw(f"{what}/{layer}", **found, global_step=record["step"], walltime=at)


def scalars(record: Record, last: int) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record with their tags. `last` is the index of the last stage."""
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
    """Write the settings; log a failure, because the run is already complete."""
    try:
        write_settings(run_dir, settings, summary)
    except Exception as error:
        log.warning("TensorBoard has no settings of %s: %r", run_dir, error)


def write_settings(run_dir: Path, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write the settings (nested) with the final figures of `summary.json`, replacing those of an earlier sitting."""
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
    # TensorBoard reads files in the order of their names, and purge_step drops what it has read before
    written.rename(folder / f"events.out.tfevents.{int(time.time()) + 1:010d}{SETTINGS_FILE}")


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the losses, bits and rates of a summary by tag: `final/validation_loss`, `final/tokens_per_s` and so
    on."""
    found = {"tokens_per_s": summary.get("tokens_per_s"), "wall_s": summary.get("wall_s")}
    for name, section in (("train", "train"), ("validation", "valid"), ("best", "best")):
        own = summary.get(section) or {}
        found |= {f"{name}_{key}": value for key, value in {**own, **(own.get("metrics") or {})}.items()}
    return {f"final/{key}": value for key, value in found.items() if isinstance(value, int | float)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key; lists become text, because HParams has none."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, list) else value
