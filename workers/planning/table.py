"""A plan as it is printed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from workers.planning.forecast import METHODS, Forecast
from workers.planning.partitions import Partition
from workers.planning.plan import Plan

WIDTH = 100


def show(plan: Plan) -> None:
    """Print the layers, the partitions, the methods, the notes, and last the setting to type."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    threads = f"{plan.torch_threads} thread{'s' * (plan.torch_threads > 1)}"
    console.print(f"a batch of B={plan.batch}, T={plan.window} on {plan.device}, {threads}", highlight=False)
    for table in (layers(plan), stages(plan), methods(plan)):
        console.print(table)
    for line in [*balances(plan), *plan.notes, f"cut by measured time: {plan.to_type}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def layers(plan: Plan) -> Table:
    """A row a layer."""
    table = _table("layer", "forward ms", "backward ms", "update ms", "parameters", "kept", "output")
    for layer in plan.layers:
        sizes = (layer.parameter_bytes, layer.activation_bytes, layer.output_bytes)
        table.add_row(layer.name, *_ms(layer.forward_s, layer.backward_s, layer.update_s), *map(_bytes, sizes))
    return table


def stages(plan: Plan) -> Table:
    """A row a stage, a section a partition."""
    table = _table("cut by", "stage", "layers", "step ms", "parameters", "kept", "to the next")
    for cut in plan.partitions:
        ways = [*map(_bytes, cut.cut_bytes[: len(cut.stages) - 1]), "-"]
        for index, (stage, way) in enumerate(zip(cut.stages, ways, strict=True)):
            sizes = (stage.parameter_bytes, stage.activation_bytes)
            row = (_short(stage.layers), *_ms(stage.seconds), *map(_bytes, sizes), way)
            table.add_row("" if index else cut.name, str(index), *row, end_section=index == len(cut.stages) - 1)
    return table


def methods(plan: Plan) -> Table:
    """A row a method: updates/s with each partition; all else is of the last one."""
    here = f"all on {os.cpu_count()} cores"
    table = _table("updates/s, cut by", *(cut.name for cut in plan.partitions), "busy", "bubble", here)
    found = {(each.method, each.partition): each for each in plan.forecasts}
    last = plan.partitions[-1].name
    for method in METHODS:
        if (method, last) in found:
            each = found[method, last]
            own = [_rate(found.get((method, cut.name))) for cut in plan.partitions]
            here = f"{each.here_per_s:.3g}" if math.isfinite(each.here_per_s) else "-"
            table.add_row(method, *own, f"{min(each.busy):.0%} to {max(each.busy):.0%}", f"{each.bubble:.0%}", here)
    return table


def balances(plan: Plan) -> Iterator[str]:
    """A line a partition."""
    for cut in plan.partitions:
        yield f"cut by {cut.name}: slowest / mean stage {cut.balance:.2f}; at its cuts {_all_bytes(cut)}"


def _table(first: str, *headings: str) -> Table:
    table = Table()
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    return table


def _all_bytes(cut: Partition) -> str:
    return " + ".join(map(_bytes, cut.cut_bytes))


def _rate(told: Forecast | None) -> str:
    return "-" if told is None else f"{told.updates_per_s:.3g}"


def _ms(*seconds: float) -> list[str]:
    return [f"{each * 1e3:.2f}" for each in seconds]


def _bytes(number: int) -> str:
    """In 1024 bytes, or in as many of these."""
    return f"{number / 2**20:.1f} MB" if number >= 2**20 else f"{number / 2**10:.1f} kB"


def _short(names: tuple[str, ...]) -> str:
    return " ".join(names) if len(names) < 4 else f"{names[0]} {names[1]} ... {names[-1]}"
