"""Predict the rate and the costs of a method in a scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee

from dni.errors import ConfigError
from workers.simulation.asynchronous import decoupled, delayed
from workers.simulation.events import Network, Outages, Program, failures
from workers.simulation.scenario import Scenario, check
from workers.simulation.synchronous import Pass, Pipeline, gpipe, interleaved, one_f_one_b

SYNCHRONOUS = ("backprop", "gpipe", "1f1b", "interleaved_1f1b", "zero_bubble")
ASYNCHRONOUS = ("synthetic", "local", "delayed")
METHODS = SYNCHRONOUS + ASYNCHRONOUS

#: Steps to simulate if all steps of a synchronous pipeline are alike: the second half is measured.
ENOUGH = 4


@dataclass(frozen=True)
class Prediction:
    """The predicted figures of a method. Lists are by stage, (K,), or by link, (K-1,); a ring also has a K-th link."""

    method: str
    delay_s: float
    window: int | None  #: W; None: one batch at a time
    microbatches: int | None  #: M; None: no microbatches
    updates_per_s: float
    samples_per_s: float
    busy: list[float]
    staleness_mean: float | None  #: in steps, over gradients and targets from links; None: none is late
    staleness_max: int | None
    held: list[float]  #: most activations that a stage keeps, in batches
    versions: list[int]  #: most versions of the weights that a stage keeps
    forward_bytes_per_s: list[float]
    backward_bytes_per_s: list[float]
    steps: int  #: simulated steps
    failures: int  #: failures during these steps


def predict(method: str, scenario: Scenario) -> Prediction:
    """Simulate one method. Raises ConfigError for a scenario that the method cannot run."""
    check(scenario)
    if method not in METHODS:
        raise ConfigError(f"--methods {method}: choose from {','.join(METHODS)}")
    if method in ASYNCHRONOUS:
        return _simulate(method, scenario, None)
    return _simulate(method, scenario, _parts(method, scenario))


def _parts(method: str, scenario: Scenario) -> int:
    """Return M as given, or the fastest divisor of the batch; at most one batch is kept, for any M."""
    if method == "backprop":
        return 1
    if scenario.microbatches is not None:
        return scenario.microbatches
    calm = replace(scenario, jitter=0.0, mtbf_s=None)
    found = {}
    for m in (m for m in range(1, scenario.batch + 1) if scenario.batch % m == 0):
        try:
            found[m] = _simulate(method, calm, m).updates_per_s
        except ConfigError:
            continue  # interleaved rounds would be unequal
    return max(found, key=lambda m: (found[m], -m))


def _simulate(method: str, scenario: Scenario, m: int | None) -> Prediction:
    s = scenario if m is None or scenario.random else replace(scenario, steps=min(ENOUGH, scenario.steps))
    outages = _outages(s, alone=method in ("synthetic", "local"))
    network = Network(s, outages)
    period = s.window if method in ("synthetic", "local") else max(1, s.window // (s.stages - 1)) if m is None else 1
    network.first = s.steps - max(s.steps // 2 // period, 1) * period if s.steps > period else s.steps // 2
    network.run(_programs(method, network, m))
    return _prediction(method, network, m, outages)


def _programs(method: str, network: Network, m: int | None) -> list[Program]:
    s = network.scenario
    stages = range(s.stages)
    if m is None:
        if method == "delayed" and s.window < s.stages - 1:
            raise ConfigError(
                f"--window {s.window}: delayed shares it among {s.stages - 1} edges, give {s.stages - 1} or more"
            )
        program = delayed if method == "delayed" else partial(decoupled, local=method == "local")
        return [program(network, k) for k in stages]
    chunks = s.chunks if method == "interleaved_1f1b" else 1
    pipeline = Pipeline(network, m, chunks, split=method == "zero_bubble")
    order = _order(method, chunks)
    return [pipeline.program(k, order(k, s.stages, m)) for k in stages]


def _order(method: str, chunks: int) -> Callable[[int, int, int], list[Pass]]:
    if method == "interleaved_1f1b":
        return partial(interleaved, chunks=chunks)
    return one_f_one_b if method in ("1f1b", "zero_bubble") else gpipe


def _outages(s: Scenario, *, alone: bool) -> list[Outages]:
    """Return the outages of each stage: independent ones, or shared ones if all stages stop together."""
    if s.mtbf_s is None:
        return []
    if alone:
        return [Outages(failures(1 / s.mtbf_s, s.recovery_s, f"{s.seed} failures {k}")) for k in range(s.stages)]
    return [Outages(each) for each in tee(failures(s.stages / s.mtbf_s, s.recovery_s, f"{s.seed} failures"), s.stages)]


def _prediction(method: str, network: Network, m: int | None, outages: list[Outages]) -> Prediction:
    s, stages = network.scenario, network.stages
    rate = (s.steps - network.first) / (network.done[-1] - network.done[network.first - 1])
    used = sum(stage.used for stage in stages)
    parts = (m or 1) * (s.chunks if method == "interleaved_1f1b" else 1)
    links = s.stages if method == "interleaved_1f1b" and s.chunks > 1 else s.stages - 1
    fell = [each.before(network.done[-1]) for each in outages]
    return Prediction(
        method=method,
        delay_s=s.delay_s,
        window=s.window if m is None else None,
        microbatches=m,
        updates_per_s=rate,
        samples_per_s=rate * s.batch,
        busy=[(stage.marks[1][1] - stage.marks[0][1]) / (stage.marks[1][0] - stage.marks[0][0]) for stage in stages],
        staleness_mean=sum(stage.late for stage in stages) / used if used else None,
        staleness_max=max(stage.latest for stage in stages) if used else None,
        held=[stage.held / parts for stage in stages],
        versions=[stage.versions for stage in stages],
        forward_bytes_per_s=[link.bytes / s.steps * rate for link in network.down[:links]],
        backward_bytes_per_s=[link.bytes / s.steps * rate for link in network.up[:links]],
        steps=s.steps,
        failures=sum(fell) if method in ("synthetic", "local") else max(fell, default=0),
    )
