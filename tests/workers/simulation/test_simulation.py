"""The simulation compared with closed forms, and its command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.simulation.asynchronous import decoupled
from workers.simulation.cli import main
from workers.simulation.events import Network, Outages, Stage
from workers.simulation.model import METHODS, predict
from workers.simulation.scenario import Scenario

F, B, U = 0.004, 0.008, 0.001  # seconds
SIZE = 65536


def scenario(stages: int = 4, **changes: Any) -> Scenario:
    """Return 4 equal stages and 200 steps by default."""
    each = {"forward_s": F, "backward_s": B, "update_s": U}
    times = {name: (changes.pop(name, seconds),) * stages for name, seconds in each.items()}
    return Scenario(**{"steps": 200, **times, **changes})


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.05])
def test_one_batch_at_a_time(delay: float) -> None:
    """K (f + b) plus 2 (K - 1) times the cost of a frame: two overheads, its time on the wire, the delay."""
    found = predict("backprop", scenario(5, delay_s=delay, overhead_s=0.001, bytes_per_s=SIZE / 0.002))
    seconds = 5 * (F + B) + 8 * (delay + 0.002 + 2 * 0.001)
    assert found.updates_per_s == pytest.approx(1 / seconds)
    assert found.samples_per_s == pytest.approx(32 / seconds)
    assert found.staleness_mean is None
    assert found.busy[1] == pytest.approx((F + B + 4 * 0.001) / seconds)  # sends two frames and receives two


def test_cuts_of_different_sizes() -> None:
    """10 and 30 ms on the wire there, and back: one batch pays for both, a predicted gradient for the larger."""
    wide = scenario(3, cut_bytes=(SIZE, 3 * SIZE), bytes_per_s=SIZE / 0.01)
    assert predict("backprop", wide).updates_per_s == pytest.approx(1 / (3 * (F + B) + 2 * (0.01 + 0.03)))
    assert predict("synthetic", wide).updates_per_s == pytest.approx(1 / 0.03, rel=0.02)
    assert predict("gpipe", replace(wide, microbatches=2)).backward_bytes_per_s[1] == pytest.approx(
        3 * predict("gpipe", replace(wide, microbatches=2)).backward_bytes_per_s[0]
    )


@pytest.mark.parametrize("method", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "m"), [(4, 8), (3, 2), (8, 32)])
def test_bubble_without_delay(method: str, stages: int, m: int) -> None:
    found = predict(method, scenario(stages, forward_s=0.004, backward_s=0.004, microbatches=m))
    assert [1 - busy for busy in found.busy] == pytest.approx([(stages - 1) / (m + stages - 1)] * stages)
    most = [m if method == "gpipe" else min(m, stages - k) for k in range(stages)]
    assert [held * m for held in found.held] == pytest.approx(most)


def test_gpipe_waits_for_one_round_trip_of_the_pipeline_and_1f1b_for_several() -> None:
    """8 parts, 4 stages: GPipe has one more stage time for each part; 1F1B's chain of waits has 16 one-way delays."""
    of = lambda method: 1 / predict(method, scenario(delay_s=1.0, microbatches=8)).updates_per_s  # noqa: E731
    assert of("gpipe") == pytest.approx(11 * (F + B) / 8 + 6.0)
    assert 16.0 < of("1f1b") < 16.1


def test_interleaving_divides_the_bubble_and_zero_bubble_leaves_a_third() -> None:
    """(K - 1)(f + b) / v (Narayanan et al. 2021); (K - 1)(f + b/2 - b/2) with b/2 = f (ZB-H1, Qi et al. 2023)."""
    period = {m: 8 / predict(m, scenario(microbatches=8)).updates_per_s for m in ("interleaved_1f1b", "zero_bubble")}
    assert period["interleaved_1f1b"] == pytest.approx(8 * (F + B) + 3 * (F + B) / 2)
    found = predict("zero_bubble", scenario(microbatches=8))
    assert period["zero_bubble"] == pytest.approx(8 * (F + B) + 3 * F)
    assert max(found.held) * 8 == pytest.approx(4)  # as the first stage of 1F1B keeps


def test_synthetic_is_limited_by_its_stages_or_by_the_round_trip_of_one_link() -> None:
    """With two stages: W frames per round trip plus f + b at the far end; else one per f + b + u."""
    for delay, window in ((0.0, 1), (0.05, 2), (0.05, 8), (0.05, 32)):
        found = predict("synthetic", scenario(2, delay_s=delay, window=window))
        expected = min(1 / (F + B + U), window / (2 * delay + F + B))
        assert found.updates_per_s == pytest.approx(expected, rel=1e-6)
        assert max(found.held) <= window + 1


def test_staleness_is_the_round_trip_in_steps() -> None:
    """A target arrives 2 d + f + b after its frame was sent, and is used at the end of the current step."""
    found = predict("synthetic", scenario(2, delay_s=0.02, window=32, steps=1000))
    assert found.staleness_max == 4  # arrives after 52 ms; polled after 8, 21, 34, 47, 60 ms
    assert predict("synthetic", scenario(2, delay_s=0.02, window=2)).staleness_max == 2  # W at most


def test_local_stages_are_not_limited_by_gradients() -> None:
    thin = {"bytes_per_s": SIZE / 0.01, "gradient_bytes": 100 * SIZE}
    slow, free = predict("synthetic", scenario(**thin)), predict("local", scenario(**thin))
    assert slow.updates_per_s == pytest.approx(1 / 1.0, rel=0.05)  # 100 x 10 ms of gradient per step
    assert free.updates_per_s == pytest.approx(1 / (F + B + U))
    assert free.backward_bytes_per_s == [0, 0, 0]
    assert free.staleness_mean is None


def test_delayed_needs_a_window_over_the_whole_pipeline() -> None:
    """K - 1 edges share W; each has W / (K - 1) frames for its round trip."""
    for window in (3, 9, 30, 90):
        found = predict("delayed", scenario(delay_s=0.05, window=window, steps=600))
        assert found.updates_per_s <= (window // 3) / 0.1
        if window == 90:
            assert found.updates_per_s == pytest.approx(1 / (F + B))
    assert predict("delayed", scenario(delay_s=0.05, window=3)).updates_per_s == pytest.approx(1 / (0.1 + F + B))
    assert found.held[0] > found.held[1] > found.held[2] > found.held[3] == 1
    assert 1 < found.versions[0] <= found.held[0]


@pytest.mark.parametrize("method", METHODS)
def test_bytes(method: str) -> None:
    """Every batch crosses every link in both directions once; with two chunks twice, and once around the ring."""
    found = predict(method, scenario(microbatches=8, gradient_bytes=1000, window=12, steps=40))
    there = [2 * SIZE] * 3 + [SIZE] if method == "interleaved_1f1b" else [SIZE] * 3
    rate = found.updates_per_s
    assert [each / rate for each in found.forward_bytes_per_s] == pytest.approx(there)
    if method not in ("local", "delayed"):  # delayed: it ends with gradients in flight
        assert [each / rate for each in found.backward_bytes_per_s] == pytest.approx([1000 * n / SIZE for n in there])


def test_the_fastest_number_of_microbatches() -> None:
    """Most without delay and overhead; fewer with long delays, where 1F1B waits longer if M exceeds K."""
    assert predict("gpipe", scenario()).microbatches == 32
    costly = predict("gpipe", scenario(overhead_s=0.002))
    others = [predict("gpipe", scenario(overhead_s=0.002, microbatches=m)).updates_per_s for m in (1, 2, 4, 8, 16, 32)]
    assert costly.updates_per_s == max(others)
    assert predict("1f1b", scenario(delay_s=0.05)).microbatches in (1, 2, 4)


def test_a_seed_repeats() -> None:
    random = scenario(jitter=0.3, mtbf_s=2.0, recovery_s=0.1, delay_s=0.01)
    for method in ("1f1b", "synthetic", "delayed"):
        assert predict(method, random) == predict(method, random)
        assert predict(method, random) != predict(method, replace(random, seed=1))


def test_the_mean_of_jitter_is_one() -> None:
    found = predict("backprop", scenario(2, jitter=0.5, steps=4000))
    assert found.updates_per_s == pytest.approx(1 / (2 * (F + B)), rel=0.02)


def test_work_pauses_while_a_machine_is_down() -> None:
    def fresh() -> Outages:
        return Outages([(1.0, 2.0), (5.0, 7.0)])

    assert fresh().through(0.0, 1.0) == 1.0
    assert fresh().through(0.5, 1.0) == 2.5
    assert fresh().through(1.5, 1.0) == 3.0
    assert fresh().through(0.5, 4.0) == 8.0 - 0.5  # 0.5, rest, 3, rest, 0.5
    assert fresh().before(4.0) == 1


class Watched(Network):
    """Records when each stage finished each step."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.steps: list[tuple[int, float]] = []

    def finished(self, stage: Stage, step: int) -> None:
        self.steps.append((stage.index, stage.now))
        super().finished(stage, step)


def test_the_neighbour_of_a_lost_stage_continues_until_its_window_is_full() -> None:
    """Stage 1 of 2 is down from 1 s to 9 s; stage 0 takes W more steps and has begun the next one."""
    network = Watched(scenario(2, window=5), [Outages([]), Outages([(1.0, 9.0)])])
    network.run([decoupled(network, k) for k in range(2)])
    meanwhile = [now for index, now in network.steps if index == 0 and 1.0 < now <= 9.0]
    assert len(meanwhile) in (4, 5)  # the frame that stage 1 was processing counts
    assert not [now for index, now in network.steps if index == 1 and 1.0 < now <= 9.0]


def test_one_failure_stops_all_synchronous_stages() -> None:
    """Up for mtbf / K on average, then down for the recovery."""
    failing = {"mtbf_s": 8.0, "recovery_s": 1.0}
    found = predict("backprop", scenario(steps=8000, **failing))
    assert found.failures > 100
    assert found.updates_per_s == pytest.approx(1 / (4 * (F + B)) / (1 + 1.0 / 2.0), rel=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stages 1", "--stages 1: give 2 or more"),
        ("--window 2,x", "--window 2,x: give a number, or several separated by commas"),
        ("--window 0", "--window 0: give numbers of 1 or more"),
        ("--window 1.5", "--window 1.5: give whole numbers"),
        ("--delay-ms -1", "--delay-ms -1: give numbers of 0 or more"),
        ("--forward-ms 1,2", "--forward-ms 1,2: give one number, or one for each of the 4 stages"),
        ("--forward-ms 0 --backward-ms 0", "--forward-ms and --backward-ms are both 0 for a stage"),
        ("--batch 1,2", "--batch takes one number, not 2"),
        ("--microbatches 6", "--microbatches 6 does not divide --batch 32"),
        ("--microbatches 16 --stages 5 --batch 16 --methods interleaved_1f1b", "in 3 rounds, which must be equal"),
        ("--bandwidth-mbit 0", "--bandwidth-mbit 0: give more than 0, or leave it out"),
        ("--plot a.doc", "--plot a.doc: give a name that ends in .png, .pdf, .svg"),
        ("--steps 3", "--steps 3: give 4 or more"),
        ("--steps 99999999", "--steps 99999999 of 4 stages is too much"),
        ("--methods fast", "--methods fast: choose from backprop,gpipe"),
        ("--methods delayed --window 2", "delayed shares it among 3 edges, give 3 or more"),
    ],
)
def test_bad_input_is_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dni-simulate: ")
    assert message in err
    assert err.count("\n") == 1


def test_too_few_failures_give_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--methods", "synthetic", "--delay-ms", "5", "--steps", "40", "--mtbf-hours", "1000"]) == 0
    assert "only 0 failures in a simulation, too few for a conclusion: give more --steps" in capsys.readouterr().out


def test_tables_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--delay-ms 0,20 --window 2,8 --steps 40 --json {tmp_path}/a.json --plot {tmp_path}/a.png"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    assert "synthetic, W=2" in out
    assert "left out: --window 2: delayed shares it among 3 edges" in out
    found = json.loads((tmp_path / "a.json").read_text())
    assert len(found["predictions"]) == 2 * (5 + 2 * 3 - 1)
    assert found["predictions"][0]["updates_per_s"] == pytest.approx(1 / (4 * (F + B)))
    assert found["notes"] == ["left out: --window 2: delayed shares it among 3 edges, give 3 or more"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
