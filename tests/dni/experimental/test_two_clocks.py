"""Two networks at two rates: labels counted again, the stream resumed, and both networks trained and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni.data.sequential_mnist import load_mnist
from dni.errors import ConfigError, DataError
from dni.experimental.two_clocks_data import TwoClocksSource
from dni.experimental.two_clocks_model import TwoClocks
from dni.models import ModelContext
from dni.recurrent import reset_streams
from dni.types import IGNORED
from tests.support.commands import settings
from tests.support.pictures import digits
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.interfaces import depth_interface
from workers.build.model import build_chains
from workers.build.stage import build_stage
from workers.cli.evaluate import main
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.launch.launcher import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits(tmp_path_factory.mktemp("two") / "digits", train=200, test=160)


def source(folder: Path, **changes: Any) -> TwoClocksSource:
    shape: dict[str, Any] = {"batch": 2, "window": 3, "block_length": 3, "sequence": 12, "part": "test", "side": 7}
    return TwoClocksSource(folder, **{**shape, **changes})


def naive(labels: list[int], block: int, sequence: int) -> tuple[list[int], list[int]]:
    """Digit by digit: the odd ones of the block it ends (-1: none), and the 3s of the last block^2 of its sequence."""
    own, slow = [], []
    for place in range(len(labels)):
        ends = (place + 1) % block == 0
        own.append(sum(d % 2 for d in labels[place + 1 - block : place + 1]) if ends else IGNORED)
        start = place // sequence * sequence
        slow.append(labels[max(start, place + 1 - block**2) : place + 1].count(3))
    return own, slow


@pytest.mark.parametrize(("window", "sequence"), [(3, 12), (1, 12), (3, None)])
def test_labels_are_those_of_a_naive_recount(window: int, sequence: int | None, folder: Path) -> None:
    """160 digits in 2 streams: 72 of each in whole sequences of 12, and 78 in whole blocks."""
    made = source(folder, window=window, sequence=sequence)
    usable = 72 if sequence else 78
    assert (made.windows_per_pass, made.symbols, made.input_symbols) == (usable // window, 10, 0)
    digit = load_mnist(folder, "test")[1][: 2 * usable].view(2, usable).tolist()
    windows = [made.next() for _ in range(made.windows_per_pass)]
    for stream in range(2):
        own, slow = naive(digit[stream], 3, sequence or usable)
        at_ends = slice(window - 1, None, window)
        assert [w.local_labels[stream].item() for w in windows if w.local_labels is not None] == own[at_ends]
        assert [w.labels[stream].item() for w in windows] == slow[at_ends]
    assert max(int(w.labels.max()) for w in windows) >= 2
    begins = [n * window % (sequence or usable) == 0 for n in range(len(windows))]
    assert [w.reset.tolist() for w in windows] == [[begin] * 2 for begin in begins]
    assert [w.done.tolist() for w in windows] == [[begin] * 2 for begin in [*begins[1:], True]]


def test_inputs_are_grey_and_the_first_digit_of_a_block_is_marked(folder: Path) -> None:
    made = source(folder, window=1)
    images = load_mnist(folder, "test")[0]
    for place in range(4):
        inputs = made.next().inputs
        assert inputs.shape == (2, 1, 50)
        grey = images[72 + place].view(7, 4, 7, 4).double().mean(dim=(1, 3)).floor().flatten() / 255
        torch.testing.assert_close(inputs[1, 0, :49], grey.float())
        assert inputs[:, 0, 49].tolist() == [float(place in (0, 3))] * 2


def test_the_order_depends_on_seed_and_pass_and_goes_on_where_it_was(folder: Path) -> None:
    made = source(folder, part="train", seed=1)
    one = [made.next() for _ in range(2 * made.windows_per_pass)]
    half = made.windows_per_pass
    assert not torch.equal(one[0].inputs, one[half].inputs)
    assert not torch.equal(one[0].inputs, source(folder, part="train", seed=2).next().inputs)
    resumed = source(folder, part="train", seed=1)
    resumed.load_state_dict(json.loads(json.dumps({"window": half - 1})))
    for expected in one[half - 1 : half + 2]:
        assert all(torch.equal(a, b) for a, b in zip(expected, resumed.next(), strict=True))
    assert resumed.state_dict() == {"window": half + 2}


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"window": 2}, {"block_length": 0}, {"sequence": 10}, {"seed": -1}, {"side": 8}]
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int], folder: Path) -> None:
    with pytest.raises(ConfigError):
        source(folder, **wrong)


def test_too_few_images_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="160 test images are less than 20 streams of 12"):
        source(folder, batch=20)


def test_only_the_last_step_of_a_window_is_the_message() -> None:
    torch.manual_seed(0)
    chain = TwoClocks(units=6).build(ModelContext(10, 0, (5,)))
    names = [name for name, _ in chain.named_children()]
    assert names == ["encoder", "lstm_a", "message", "lstm_b", "softmax"]
    x = torch.randn(2, 3, 5)
    a, _ = chain[1](torch.relu(chain[0][0](x)))  # type: ignore[index]
    b, _ = chain[3](a[:, 2:])
    output, after = chain(x, chain.initial_state(2))
    torch.testing.assert_close(output, chain[4](b))
    assert (output.shape, len(after)) == ((2, 1, 10), 4)


def two(folder: Path, **changes: Any) -> Config:
    config: dict[str, Any] = {
        "steps": 9, "log_every": 3,
        "model": {"kind": "two_clocks", "units": 6, "split_points": ["lstm_b"]},
        "data": {
            "kind": "two_clocks", "path": str(folder), "side": 7, "batch": 2, "window": 3, "block_length": 3,
            "sequence": 9,
        },
        "depth": {"method": "multi_rate_backprop", "update_periods": [1, 2]},
        "evaluate": {"every": None, "windows": 8},
    }  # fmt: skip
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    return tiny(**config)


def one_loop(config: Config) -> tuple[list[nn.Module], nn.Linear]:
    """Both networks, and A's own head, by plain backpropagation of the sum of their losses."""
    config, data = resolve(config)
    a, b = build_chains(config)
    own = depth_interface(config, 0, build_stage(config, 0)).head  # type: ignore[attr-defined]
    head_optimizer = torch.optim.Adam(own.parameters(), config.optimizer.learning_rate, fused=True)
    optimizers = [config.optimizer.build(chain.parameters()) for chain in (a, b)]
    state_a, state_b = a.initial_state(2), b.initial_state(2)
    waiting = torch.zeros(2, dtype=torch.bool)
    for step in range(1, config.steps + 1):
        window = data.train.next()
        waiting = waiting | window.reset
        message, after = a(window.inputs, reset_streams(state_a, window.reset))
        state_a = tuple(s.detach() for s in after)
        loss = F.cross_entropy(own(message).flatten(0, 1), window.local_labels.flatten(), reduction="sum")  # type: ignore
        parts = [(a, optimizers[0])]
        if step % config.periods[1] == 0:
            output, after = b(message, reset_streams(state_b, waiting))
            state_b, waiting = tuple(s.detach() for s in after), torch.zeros_like(waiting)
            loss = loss + F.cross_entropy(output.flatten(0, 1), window.labels.flatten(), reduction="sum")
            parts.append((b, optimizers[1]))
        loss.backward()
        for part, optimizer in [*parts, (own, head_optimizer)]:
            for parameter in part.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(2)
            if part is not own:
                nn.utils.clip_grad_norm_(part.parameters(), config.optimizer.clip or 0.0)
            optimizer.step()
            optimizer.zero_grad()
    return [a, b], own


@pytest.mark.parametrize("periods", [[1, 2], []])
def test_locked_networks_equal_one_loop_over_the_sum_of_their_losses(
    periods: list[int], folder: Path, tmp_path: Path
) -> None:
    config = two(folder, depth={"update_periods": periods})
    launch(config, tmp_path)
    chains, _ = one_loop(two(folder, depth={"update_periods": periods}))
    found = parameters_of(tmp_path, 2)
    for name, value in {n: v for chain in chains for n, v in chain.state_dict().items()}.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.long
def test_a_resumed_run_equals_one_that_went_on(folder: Path, tmp_path: Path) -> None:
    def config(every: int | None, **more: Any) -> Config:
        depth = {"method": "multi_rate", "update_periods": [1, 2], "max_in_flight": 4, "lag": 1}
        return two(folder, depth=depth, steps=12, checkpoint={"every": every, "keep": 9}, **more)

    launch(config(None), tmp_path / "whole")
    launch(config(5), tmp_path / "saved")
    launch(config(5, resume=str(tmp_path / "saved"), resume_step=5), tmp_path / "part")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "part", 2))


@pytest.mark.long
def test_both_networks_are_measured_and_the_second_is_the_headline(folder: Path, tmp_path: Path) -> None:
    """The experiment itself, made small; A's figures stand beside those of B."""
    asked = settings(
        "experiment=two_clocks", f"data.path={folder}", "data.side=7", "data.batch=8", "model.units=24", "steps=60",
        "log_every=10", "evaluate.every=30", "checkpoint.every=null", "transport=local", "launch=threads",
        "launch.torch_threads=1", "depth.lag=1", "predictor.depth.warmup=5", "optimizer.learning_rate=1e-2",
    )  # fmt: skip
    check(asked)
    summary = launch(asked, tmp_path).summary
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = [(r["kind"], r["stage"], r["step"]) for r in records if r["kind"] in ("valid", "own")]
    assert sorted(kinds) == [("own", 0, 30), ("own", 0, 60), ("valid", 1, 30), ("valid", 1, 60)]
    last = {r["kind"]: r for r in records if r["kind"] in ("valid", "own")}
    assert summary["valid"]["accuracy"] == last["valid"]["accuracy"]
    assert summary["stage"][0]["own"]["accuracy"] == last["own"]["accuracy"]
    assert "own" not in summary["stage"][1]
    first = next(r for r in records if r["kind"] == "train" and r["stage"] == 0)
    assert last["own"]["loss"] < first["loss"]
    assert main([str(tmp_path), "--split", "valid"]) == 0
    found = json.loads((tmp_path / "evaluation-valid.json").read_text())
    assert found["accuracy"] == summary["valid"]["accuracy"]
    assert main([str(tmp_path)]) == 0
    found = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert (found["split"], found["labels"]) == ("test", 16)  # 16 of each stream's digits, in which B ticks twice
