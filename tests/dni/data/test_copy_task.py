"""dni/data/copy_task.py: the sequences, the curriculum, and checkpoints."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni.data import CopySource, Source
from dni.errors import ConfigError
from dni.interfaces.loss import LossInterface
from dni.models import Lstm, ModelContext
from dni.stages.base import Stage
from dni.types import IGNORED

M, BL, O = 2, 3, IGNORED  # noqa: E741 - as in the module's picture: MARK, BLANK and a dot


def solve(source: CopySource, nats: float = 0.0) -> int:
    """Read and report windows until one batch of sequences is complete; return its number of windows."""
    start = source.state_dict()["window"]
    padded = math.ceil(source.length / source.window_size)
    for n in range(start, start + padded):
        count = int((source.next().labels[:, : source.window_size] != IGNORED).sum())
        source.report(n, nats * count, count)
    return padded


def test_a_copy_by_hand() -> None:
    source: Source = CopySource(2, 4, 3, seed=0, length=9)
    windows = [source.next() for _ in range(4)]
    (a, b, c), (d, e, f) = (windows[0].inputs[stream, 1:].tolist() for stream in (0, 1))
    assert {a, b, c, d, e, f} == {0, 1}
    assert windows[0].inputs.tolist() == [[M, a, b, c], [M, d, e, f]]
    assert windows[0].labels.tolist() == [[O, O, O, O, O, a, b], [O, O, O, O, O, d, e]]
    assert windows[1].inputs.tolist() == [[4, BL, BL, BL]] * 2
    assert windows[1].labels.tolist() == [[O, a, b, c, M, O, O], [O, d, e, f, M, O, O]]
    assert windows[2].inputs.tolist() == [[BL] * 4] * 2
    assert windows[2].labels.tolist() == [[M, O, O, O, O, O, O]] * 2
    assert [w.reset.tolist() for w in windows] == [[True] * 2, [False] * 2, [False] * 2, [True] * 2]
    assert (source.symbols, source.input_symbols) == (3, 5)


def test_a_repeat_copy_by_hand() -> None:
    source = CopySource(1, 9, seed=3, repeat=True, length=9)
    window = source.next()
    a, b = window.inputs[0, 1:3].tolist()
    assert window.inputs.tolist() == [[M, a, b, 5, BL, BL, BL, BL, BL]]
    assert window.labels.tolist() == [[O, O, O, O, a, b, a, b, M]]
    assert (source.symbols, source.input_symbols) == (3, 36)


def test_lengths_grow_as_in_the_paper() -> None:
    # These include every length in Table 1 of Jaderberg et al. (2017) for repeat copy.
    source, lengths = CopySource(1, 8, seed=0, repeat=True), []
    for _ in range(14):
        lengths.append(source.length)
        solve(source)
    assert lengths == [5, 7, 9, 12, 15, 19, 23, 28, 33, 39, 45, 52, 59, 67]
    assert (source.level, source.solved_length) == (15, 67)
    copy = CopySource(1, 8, seed=0)
    assert copy.solved_length == 0
    for n in range(1, 5):
        assert (copy.level, copy.length) == (n, 2 * n + 3)
        solve(copy)
        assert copy.solved_length == 2 * n + 3


def test_after_32_repeats_only_the_bits_grow() -> None:
    longest = CopySource(1, 64, seed=0, repeat=True, length=33 * 32 + 3)
    assert int(longest.next().inputs.max()) == longest.input_symbols - 1 == 35
    longer = CopySource(1, 64, seed=0, repeat=True, length=33 * 33 + 3)
    assert longer.next().inputs[0, 34] == 35


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    batch=st.integers(1, 3),
    window=st.integers(1, 9),
    future_labels=st.integers(0, 12),
    bits=st.integers(1, 6),
    more=st.integers(0, 1),
    repeat=st.booleans(),
)
def test_every_sequence_follows_its_definition(
    batch: int, window: int, future_labels: int, bits: int, more: int, repeat: bool
) -> None:
    repeats = max(1, bits - more) if repeat else 1
    length = (repeats + 1) * bits + 3
    source = CopySource(batch, window, future_labels, seed=1, repeat=repeat, length=length)
    windows = [source.next() for _ in range(math.ceil(length / window))]
    inputs = torch.cat([w.inputs for w in windows], dim=1)
    labels = torch.cat([w.labels[:, :window] for w in windows], dim=1)
    padding = inputs.shape[1] - length
    for stream, row in enumerate(inputs.tolist()):
        read = row[1 : bits + 1]
        assert set(read) <= {0, 1}
        assert row == [M, *read, 3 + repeats, *[BL] * (length - bits - 2 + padding)]
        assert labels[stream].tolist() == [O] * (bits + 2) + read * repeats + [M] + [O] * padding
    beyond = torch.cat([labels, torch.full((batch, future_labels), IGNORED)], dim=1)
    for n, w in enumerate(windows):
        assert torch.equal(w.labels, beyond[:, n * window : (n + 1) * window + future_labels])
    assert source.next().reset.all()


def test_bits_depend_on_seed_and_sequence_alone() -> None:
    def bits(seed: int, window: int) -> list[list[int]]:
        source = CopySource(64, window, seed=seed, length=23)
        return [source.next().inputs[0, 1:11].tolist() for _ in range(3)]

    assert bits(0, 23) == bits(0, 30)
    assert len({tuple(b) for b in bits(0, 23) + bits(1, 23)}) == 6
    drawn = CopySource(256, 67, seed=0, length=67).next().inputs[:, 1:33].double()
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)  # 8192 coins: 4 standard deviations


def test_the_mean_over_all_counted_labels_decides() -> None:
    nats = 0.15 * math.log(2)
    source = CopySource(2, 4, seed=0, length=7)  # windows 0 and 1 have 0 and 6 counted labels
    for _ in range(2):
        source.next()
    source.report(0, 0.0, 0)
    assert source.solved_length == 0
    source.report(1, 6 * nats * 1.001, 6)
    assert source.solved_length == 0
    solve(source, nats * 0.999)
    assert source.solved_length == source.length == 7
    uneven = CopySource(1, 5, seed=0)  # one sequence of 5 steps, 2 of them counted
    uneven.next()
    uneven.report(0, math.nan, 2)
    assert uneven.level == 1


def test_two_windows_of_a_sequence_are_added_up() -> None:
    source = CopySource(1, 2, seed=0, threshold_bits=1.0)  # steps 3 and 4 of 5 count: windows 1 and 2
    for _ in range(3):
        source.next()
    source.report(2, 1.5 * math.log(2), 1)
    source.report(2, 0.0, 1)  # twice: ignored
    assert source.level == 1
    source.report(1, 0.4 * math.log(2), 1)  # 1.9 bits on 2 labels
    assert source.level == 2


def test_late_reports_of_an_older_level_are_ignored() -> None:
    source = CopySource(1, 5, seed=0)
    windows = [source.next() for _ in range(3)]  # three sequences of level 1 are under way
    assert all(w.reset.all() for w in windows)
    source.report(0, 0.0, 2)
    assert source.level == 2
    source.report(1, 0.0, 2)
    source.report(2, 0.0, 2)
    source.report(99, 0.0, 2)  # never returned
    assert source.level == 2
    assert [source.next().reset.item() for _ in range(3)] == [True, False, True]  # the length is 7 now
    source.report(4, 0.0, 2)
    assert source.level == 2  # window 3 counts one label, too
    source.report(3, 0.0, 1)
    assert (source.level, source.solved_length) == (3, 7)


def test_a_level_begins_with_the_next_sequence() -> None:
    source = CopySource(1, 5, seed=0)
    for _ in range(2):
        solve(source)
    assert source.length == 9
    source.next()
    source.next()
    assert source.next().reset.item()  # the second sequence of length 9
    source.report(3 + 1, 0.0, 4)
    assert source.length == 11
    assert not source.next().reset.item()  # the length does not change within a sequence


def test_missing_reports_do_not_accumulate() -> None:
    source = CopySource(1, 5, seed=0)
    for _ in range(500):
        source.next()
    assert len(source.state_dict()["unreported"]) == 64
    source.report(0, 0.0, 2)  # dropped long ago
    assert source.level == 1
    source.report(499, 0.0, 2)
    assert source.level == 2


@pytest.mark.parametrize("repeat", [False, True])
def test_resumes_exactly_at_any_window(repeat: bool) -> None:
    def make() -> CopySource:
        return CopySource(2, 3, 2, seed=5, repeat=repeat)

    def go(source: CopySource, n: int) -> list[object]:
        """Read window n, and report a solved window n - 2."""
        window = source.next()
        if n >= 2:
            source.report(n - 2, 0.1, 6)
        return [*(t.tolist() for t in window if t is not None), source.level]

    whole = make()
    seen, states = [], []
    for n in range(40):
        states.append(json.dumps(whole.state_dict()))
        seen.append(go(whole, n))
    assert whole.level >= 4
    for n in range(0, 40, 3):
        resumed = make()
        resumed.load_state_dict(json.loads(states[n]))
        assert [go(resumed, m) for m in range(n, 40)] == seen[n:]


def test_windows_are_copies() -> None:
    source, twin = (CopySource(1, 3, 4, seed=0, length=9) for _ in range(2))
    window = source.next()
    window.labels.zero_()
    window.inputs.zero_()
    twin.next()
    assert torch.equal(source.next().labels, twin.next().labels)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="no sequence of this task has 10 steps: use 9 or 11"):
        CopySource(1, 4, seed=0, length=10)
    with pytest.raises(ConfigError, match="has 13 steps: use 12 or 15"):
        CopySource(1, 4, seed=0, repeat=True, length=13)
    with pytest.raises(ConfigError, match=r"has 1 steps: use 5$"):
        CopySource(1, 4, seed=0, length=1)
    with pytest.raises(ConfigError, match="window 0 >= 1"):
        CopySource(1, 0, seed=0)
    with pytest.raises(ConfigError, match="does not know the 8 labels"):
        CopySource(1, 4, 8, seed=0, streaming=True)
    assert CopySource(1, 4, seed=0, streaming=True).streaming


def test_a_small_network_climbs() -> None:
    source = CopySource(32, 5, seed=0)
    module = Lstm(units=24, layers=1).build(ModelContext(source.input_symbols))
    module.softmax = torch.nn.Linear(24, source.symbols)
    stage = Stage(module, torch.optim.Adam(module.parameters(), 1e-2), first=True)
    loss = LossInterface()
    for n in range(200):
        window = source.next()
        output, _ = stage.forward(window.inputs, window.reset)
        stage.backward(loss.gradient(n, output, window.labels))
        stage.update(32)
        count = int((window.labels != IGNORED).sum())
        source.report(n, loss.loss * count, count)
    assert source.solved_length >= 5
