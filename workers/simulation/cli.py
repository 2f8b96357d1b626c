"""`dni-simulate`: predict the rate of every method on machines and links that are not available."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dni import __version__
from dni.errors import ConfigError
from workers.simulation.figure import draw, label
from workers.simulation.model import ASYNCHRONOUS, METHODS, Prediction, predict
from workers.simulation.scenario import Scenario

#: option, default, help; times in milliseconds
NUMBERS = (
    ("--forward-ms", "4", "forward time of a batch on a stage; one number, or one per stage, separated by commas"),
    ("--backward-ms", "8", "backward time; as --forward-ms"),
    ("--update-ms", "1", "time of one update of a predictor or of a local head; as --forward-ms"),
    ("--overhead-ms", "0", "time of a stage for every frame it sends or receives"),
    ("--delay-ms", "0,5,20,50,100", "one-way delays of a link; each is simulated"),
    ("--window", "8", "W, most frames in flight on an edge; each of several is simulated"),
    ("--activation-kb", "64", "activation of a batch at a cut, in units of 1024 bytes"),
    ("--gradient-kb", None, "gradient of a batch at a cut; default: as --activation-kb"),
    ("--bandwidth-mbit", None, "bandwidth of each direction of a link, in 1e6 bits a second; default: no limit"),
    ("--microbatches", None, "M of the synchronous pipelines; default: the fastest for each"),
    ("--batch", "32", "examples of a batch, split into microbatches"),
    ("--chunks", "2", "virtual stages per stage of interleaved_1f1b"),
    ("--jitter", "0", "standard deviation of the logarithm of all times"),
    ("--mtbf-hours", None, "mean time between the failures of one stage; default: no failures"),
    ("--recovery-s", "60", "duration of a failure"),
    ("--steps", "2000", "steps to simulate; the second half is measured"),
    ("--seed", "0", "seed of jitter and failures"),
)
FEW = 10  # fewer failures than this give a warning
PICTURES = (".png", ".pdf", ".svg")


def numbers(option: str, text: str, *, least: float = 0.0) -> list[float]:
    """Parse numbers separated by commas. Raises ConfigError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: give a number, or several separated by commas") from None
    if not all(math.isfinite(number) and number >= least for number in found):
        raise ConfigError(f"{option} {text}: give numbers of {least:g} or more")
    return found


def whole(option: str, text: str, *, least: int = 1) -> list[int]:
    """Parse whole numbers, as `numbers`."""
    found = numbers(option, text, least=least)
    if any(number % 1 for number in found):
        raise ConfigError(f"{option} {text}: give whole numbers")
    return [int(number) for number in found]


def _one(option: str, found: Sequence[float]) -> float:
    if len(found) != 1:
        raise ConfigError(f"{option} takes one number, not {len(found)}")
    return found[0]


def _positive(option: str, text: str | None) -> float | None:
    number = None if text is None else _one(option, numbers(option, text))
    if number == 0:
        raise ConfigError(f"{option} 0: give more than 0, or leave it out")
    return number


def scenario(options: argparse.Namespace) -> Scenario:
    """Return the first scenario of the sweep. Raises ConfigError."""

    def single(name: str) -> float:
        option = f"--{name}"
        return _one(option, numbers(option, getattr(options, name.replace("-", "_"))))

    def count(name: str, least: int = 1) -> int:
        option = f"--{name}"
        return int(_one(option, whole(option, getattr(options, name.replace("-", "_")), least=least)))

    stages, activation = count("stages"), single("activation-kb")
    megabits, hours = (
        _positive("--bandwidth-mbit", options.bandwidth_mbit),
        _positive("--mtbf-hours", options.mtbf_hours),
    )
    return Scenario(
        forward_s=_per_stage("--forward-ms", options.forward_ms, stages),
        backward_s=_per_stage("--backward-ms", options.backward_ms, stages),
        update_s=_per_stage("--update-ms", options.update_ms, stages),
        overhead_s=single("overhead-ms") / 1e3,
        bytes_per_s=None if megabits is None else megabits * 1e6 / 8,
        activation_bytes=round(1024 * activation),
        gradient_bytes=round(1024 * (activation if options.gradient_kb is None else single("gradient-kb"))),
        batch=count("batch"),
        microbatches=None if options.microbatches is None else count("microbatches"),
        chunks=count("chunks"),
        steps=count("steps"),
        jitter=single("jitter"),
        mtbf_s=None if hours is None else hours * 3600,
        recovery_s=single("recovery-s"),
        seed=count("seed", least=0),
    )


def _per_stage(option: str, text: str, stages: int) -> tuple[float, ...]:
    found = [number / 1e3 for number in numbers(option, text)]
    if len(found) not in (1, stages):
        raise ConfigError(f"{option} {text}: give one number, or one for each of the {stages} stages")
    return tuple(found * stages if len(found) == 1 else found)


def sweep(
    methods: Sequence[str], first: Scenario, delays: Sequence[float], windows: Sequence[int]
) -> Iterator[Prediction | ConfigError]:
    """Simulate every method at every delay, and at every window if it has one; yield the error of one that cannot
    be."""
    for method in methods:
        for window in windows if method in ASYNCHRONOUS else windows[:1]:
            for delay in delays:
                try:
                    yield predict(method, replace(first, delay_s=delay, window=window))
                except ConfigError as error:
                    yield error


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 1 else f"{number:.1f}"


def _rates(predictions: Sequence[Prediction], delays: Sequence[float]) -> Table:
    """Return the table of updates per second, a row per method and window."""
    table = Table("updates/s at a delay of", *(f"{delay * 1e3:g} ms" for delay in delays))
    for name in dict.fromkeys(map(label, predictions)):
        table.add_row(name, *(_short(p.updates_per_s) for p in predictions if label(p) == name))
    return table


def _details(predictions: Sequence[Prediction], delay: float) -> Table:
    """Return the table of all other figures, at one delay."""
    headings = ("samples/s", "M", "busy", "staleness, mean / max", "held", "weights", "MB/s down", "MB/s up")
    table = Table(f"at {delay * 1e3:g} ms", *headings)
    for p in (p for p in predictions if p.delay_s == delay):
        late = "-" if p.staleness_mean is None else f"{p.staleness_mean:.1f} / {p.staleness_max}"
        down, up = (max(each) / 1e6 for each in (p.forward_bytes_per_s, p.backward_bytes_per_s))
        table.add_row(
            label(p), _short(p.samples_per_s), str(p.microbatches or "-"), f"{min(p.busy):.0%} to {max(p.busy):.0%}",
            late, f"{round(max(p.held), 2):g}", str(max(p.versions)), _short(down), _short(up),
        )  # fmt: skip
    return table


def _show(predictions: Sequence[Prediction], notes: Sequence[str], delays: Sequence[float]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_rates(predictions, delays))
    console.print(_details(predictions, delays[-1]))
    for line in notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def simulate(options: argparse.Namespace) -> None:
    """Simulate, print two tables and write the requested files. Raises ConfigError and OSError."""
    if options.plot and options.plot.suffix not in PICTURES:
        raise ConfigError(f"--plot {options.plot}: give a name that ends in {', '.join(PICTURES)}")
    first = scenario(options)
    delays = list(dict.fromkeys(ms / 1e3 for ms in numbers("--delay-ms", options.delay_ms)))
    windows = list(dict.fromkeys(whole("--window", options.window)))
    cells = list(sweep(list(dict.fromkeys(options.methods.split(","))), first, delays, windows))
    predictions = [cell for cell in cells if isinstance(cell, Prediction)]
    refused = list(dict.fromkeys(str(cell) for cell in cells if isinstance(cell, ConfigError)))
    if not predictions or (not options.methods.count(",") and refused):
        raise ConfigError(refused[0])
    notes = [f"left out: {line}" for line in refused]
    if first.mtbf_s is not None and (fewest := min(p.failures for p in predictions)) < FEW:
        notes.append(f"only {fewest} failures in a simulation, too few for a conclusion: give more --steps")
    if options.json:
        found = {"scenario": asdict(first), "predictions": [asdict(p) for p in predictions], "notes": notes}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        draw(predictions, f"{first.stages} stages, simulated", options.plot)
    _show(predictions, notes, delays)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-simulate`. Returns 0, or 2 after one line on stderr that says what to change."""
    parser = argparse.ArgumentParser(
        "dni-simulate", description="Predict the rate of each method on other machines and links."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--stages", default="4", metavar="K", help="stages in a row (4)")
    for option, default, text in NUMBERS:
        shown = text if default is None else f"{text} ({default})"
        parser.add_argument(option, default=default, metavar="N", help=shown)
    parser.add_argument("--methods", default=",".join(METHODS), metavar="NAMES", help=",".join(METHODS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw updates/s against the delay")
    options = parser.parse_args(argv)
    try:
        simulate(options)
    except (ConfigError, OSError) as error:
        print(f"dni-simulate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
