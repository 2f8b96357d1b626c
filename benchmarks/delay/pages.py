"""The tables of the delay benchmarks and of the emulated links, from benchmarks/results."""

from __future__ import annotations

from typing import Any

from benchmarks.delay import copy_by_clock as reaches
from benchmarks.delay import gpt_race
from benchmarks.delay import throughput_tables as linked
from benchmarks.delay import time_to_loss_curves as races
from benchmarks.harness.grid import spread
from benchmarks.harness.markdown import markdown, source
from benchmarks.network import calibrate as emulated


def delay_line(results: dict[str, Any]) -> str:
    """Return the measured delays of the emulated links."""
    note = (
        f"ms; {results['hosts']} hosts in a row, streams both ways on every link; load average of the machine before: "
        f"{results['load_before']}. {source(results)}"
    )
    return f"{markdown(emulated.HEADS, emulated.lines(results))}\n\n{note}"


def links_rates(results: dict[str, Any]) -> str:
    """Return updates per second by method and delay."""
    delays, ms = results["delays_ms"], results["emulated_ms"]
    note = (
        f"{results['stages']} stages, batches of {results['batch']} but where the line says more. Emulated: forward "
        f"{ms['forward']:g} ms, backward {ms['backward']:g} ms, an update at a cut {ms['cut']:g} ms. {source(results)}"
    )
    return f"{markdown(linked.rate_heads(delays), linked.rates(results['rows'], delays))}\n\n{note}"


def links_cells(results: dict[str, Any]) -> str:
    """Return all figures of every cell."""
    return markdown(linked.HEADS, linked.details(results["rows"], results["forecasts"], results["delays_ms"]))


def race(results: dict[str, Any]) -> str:
    """Return seconds to backprop's last loss."""
    delays, ms = results["delays_ms"], results["emulated_ms"]
    goals = races.goals(results["rows"])
    note = (
        f"Backprop's loss: {spread(goals, 3)} validation bits, after {results['steps']} steps; {len(goals)} seeds, "
        "each against its own backprop, mean ± standard deviation. "
        f"Emulated: forward {ms['forward']:g} ms, backward {ms['backward']:g} ms, an update at a cut {ms['cut']:g} ms. "
        f"{source(results)}"
    )
    return f"{markdown(races.heads(delays), races.lines(results['rows'], delays))}\n\n{note}"


def gpt(results: dict[str, Any]) -> str:
    """Return seconds to backprop's loss of a GPT."""
    delays, ms = tuple(results["delays_ms"]), results["emulated_ms"]
    note = (
        f"Mean ± standard deviation over seeds, each against the loss of its own backprop after {results['steps']} "
        f"steps. Emulated: forward {ms['forward']:g} ms, backward {ms['backward']:g} ms; heads and second backward "
        f"passes what they cost beside these. {source(results)}"
    )
    return f"{markdown(gpt_race.heads(delays), gpt_race.lines(results['rows'], delays))}\n\n{note}"


def reach(results: dict[str, Any]) -> str:
    """Return the learned length at equal symbols and at equal seconds."""
    forward, backward, cut = results["emulated_ms"]
    note = (
        f"{results['max_timesteps']:,} time steps per stream, mean ± standard deviation over seeds. Emulated, per "
        f"window of 4: forward {forward:g} ms, backward {backward:g} ms, update at a cut {cut:g} ms. {source(results)}"
    )
    return f"{markdown(reaches.HEADS, reaches.lines(results['rows']))}\n\n{note}"
