"""depth=local: every stage but the last learns from a local classifier, and no gradient crosses a cut."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.errors import DivergedError
from dni.interfaces.local import LocalInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.loss_function import SquaredError
from dni.losses import summed_cross_entropy
from dni.predictors.critic import SoftmaxCritic
from dni.recurrent import reset_streams
from dni.types import IGNORED
from tests.support.runs import assert_same, parameters_of, tiny
from tests.workers.runtime.test_worker import STEPS, Line
from workers.build.data import resolve
from workers.build.interfaces import depth_interface
from workers.build.model import build_chains
from workers.build.stage import build_stage
from workers.comm.frame import Kind
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.runtime.feed import Feed

B, T, D, V = 3, 4, 5, 6


def interface(hidden: int = 0, rate: float = 1e-2) -> LocalInterface:
    cut = LocalInterface(D, classes=V, hidden=hidden, learning_rate=rate)
    cut.head.double()
    return cut


def activation() -> tuple[Tensor, Tensor]:
    return torch.randn(B, T, D, dtype=torch.float64), torch.randint(0, V, (B, T))


@pytest.mark.parametrize("hidden", [0, 7])
def test_the_gradient_is_that_of_the_head_before_its_step(hidden: int) -> None:
    """Compare with finite differences of an explicit cross-entropy."""
    cut, (value, labels) = interface(hidden), activation()
    labels[0, 0] = IGNORED
    head = copy.deepcopy(cut.head)

    def loss(at: Tensor) -> float:
        scores = head(at).log_softmax(-1)
        return -sum(scores[b, t, labels[b, t]].item() for b in range(B) for t in range(T) if (b, t) != (0, 0))

    found = cut.gradient(1, value, labels)
    for b, t, d in ((0, 0, 0), (0, 1, 2), (2, 3, 4)):
        step = torch.zeros_like(value)
        step[b, t, d] = 1e-6
        slope = (loss(value + step) - loss(value - step)) / 2e-6
        assert found[b, t, d].item() == pytest.approx(slope, abs=1e-7)
    assert cut.take_recent() == {"predictor_loss": pytest.approx(loss(value) / (B * T))}
    assert cut.take_recent() == {"predictor_loss": None}


def test_eager_critic_without_gradient_weight_is_a_local_loss() -> None:
    """Return gradients and weights after three steps without any target."""
    local, critic = interface(), SoftmaxCritic(D, classes=V, gradient_weight=0.0, eager_loss=True).double()
    critic.last.load_state_dict(local.head[0].state_dict())
    cut = DecoupledInterface(critic, torch.optim.Adam(critic.parameters(), 1e-2))
    for step in range(3):
        value, labels = activation()
        torch.testing.assert_close(cut.gradient(step, value, labels), local.gradient(step, value, labels))
    torch.testing.assert_close(critic.state_dict()["last.weight"], local.head.state_dict()["0.weight"])


def test_eager_critic_fits_only_the_gradient_to_the_target() -> None:
    critic = SoftmaxCritic(D, classes=V, gradient_weight=0.7, eager_loss=True).double()
    (value, labels), target = activation(), torch.randn(B, T, D, dtype=torch.float64)
    known, fit = critic.known(value, labels), critic.fit(value, labels, target)
    whole = SoftmaxCritic(D, classes=V, gradient_weight=0.7).double()
    whole.load_state_dict(critic.state_dict())
    assert known is not None
    assert whole.known(value, labels) is None
    torch.testing.assert_close(known, summed_cross_entropy(value @ critic.last.weight.T, labels) / (B * T))
    torch.testing.assert_close(fit.loss, 0.7 * (critic(value, labels) - target).pow(2).sum() / (B * T))
    torch.testing.assert_close(known + fit.loss, whole.fit(value, labels, target).loss)


def test_a_first_step_of_adam_moves_every_weight_by_the_learning_rate() -> None:
    cut, (value, labels) = interface(rate=0.25), activation()
    before = copy.deepcopy(cut.head.state_dict())
    cut.gradient(1, value, labels)
    for name, weight in cut.head.state_dict().items():
        torch.testing.assert_close((weight - before[name]).abs(), torch.full_like(weight, 0.25), atol=1e-5, rtol=0)


def test_predict_changes_nothing() -> None:
    cut, (value, labels) = interface(4), activation()
    first = cut.predict(value, labels)
    assert torch.equal(cut.recompute(value, labels, None), first)
    assert torch.equal(cut.gradient(1, value, labels), first)
    assert not torch.equal(cut.predict(value, labels), first)


def test_state_dict_continues_exactly() -> None:
    one, two = interface(4), interface(4)
    one.gradient(1, *activation())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for step in (2, 3):
        value, labels = activation()
        assert torch.equal(one.gradient(step, value, labels), two.gradient(step, value, labels))


def test_values_without_a_loss_are_refused() -> None:
    cut, (value, labels) = interface(), activation()
    with pytest.raises(DivergedError, match="the local loss of step 3 is nan"):
        cut.gradient(3, value * math.nan, labels)
    with pytest.raises(ValueError, match="needs the labels"):
        cut.gradient(3, value, None)


def local(**more: Any) -> Config:
    depth = {"method": "local", "max_in_flight": 4, "hidden": 5, "learning_rate": 1e-2, **more.pop("depth", {})}
    return tiny(**{"stages": 3, "depth": depth, **more})


def greedy_training(config: Config) -> dict[str, Tensor]:
    """Train every stage with its head as a separate network, by plain backpropagation on detached inputs."""
    config, opened = resolve(config)
    chains = build_chains(config)
    cuts = [depth_interface(config, k, build_stage(config, k)) for k in (0, 1)]
    heads = [*(cut.head for cut in cuts if isinstance(cut, LocalInterface)), nn.Identity()]
    optimizers = [config.optimizer.build(chain.parameters()) for chain in chains]
    optimizers += [torch.optim.Adam(head.parameters(), 1e-2) for head in heads[:2]]
    states = [chain.initial_state(config.data.batch) for chain in chains]
    for _ in range(config.steps):
        window = opened.train.next()
        x = window.inputs
        for k, (chain, head) in enumerate(zip(chains, heads, strict=True)):
            x, after = chain(x.detach(), reset_streams(states[k], window.reset))
            states[k] = tuple(s.detach() for s in after)
            summed_cross_entropy(head(x), window.labels).div(window.labels.numel()).backward()
            nn.utils.clip_grad_norm_(chain.parameters(), config.optimizer.clip or math.inf)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


def test_stages_and_heads_learn_as_networks_of_their_own(tmp_path: Path) -> None:
    launch(local(), tmp_path)
    expected, found = greedy_training(local()), parameters_of(tmp_path, 3)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_no_gradient_goes_upstream(tmp_path: Path) -> None:
    """Only the loss of each step goes upstream: three numbers of eight bytes."""
    line = Line(tmp_path, depth={"method": "local", "max_in_flight": 4})
    sizes: list[list[int]] = []
    for end in line.upward:
        sizes.append([])
        _weigh(end, sizes[-1])
    line.run()
    for end, sent in zip(line.upward, sizes, strict=True):
        assert [kind for kind, _ in end.sent] == [Kind.DONE] * (STEPS + 3)  # validation, checkpoint barrier and end
        assert sum(sent) <= 24 * STEPS
    assert sizes[1] == [24] * STEPS + [0] * 3
    assert line.in_flight() == [0, 0]


def _weigh(end: Any, sizes: list[int]) -> None:
    send = end.send

    def weighed(frame: Any) -> None:
        sizes.append(sum(tensor.nbytes for tensor in frame.tensors.values()))
        send(frame)

    end.send = weighed


def test_a_run_does_not_depend_on_arrival(tmp_path: Path) -> None:
    part = {"resume": str(tmp_path / "saved"), "resume_step": 4, "checkpoint": {"every": 4, "keep": 9}}
    ways: dict[str, dict[str, Any]] = {
        "threads": {},
        "late": {"transport": {"kind": "grpc", "delay_ms": 3}, "evaluate": {"probe": 3}},
        "saved": {"checkpoint": {"every": 4, "keep": 9}},
        "part": part,
    }
    for way, changes in ways.items():
        launch(local(**changes), tmp_path / way)
        assert_same(parameters_of(tmp_path / "threads", 3), parameters_of(tmp_path / way, 3))


def test_source_gets_reports_of_the_last_stages_loss(tmp_path: Path) -> None:
    """Each of the two edges delays reports by one step, so that they arrive two steps late."""
    line = Line(tmp_path, depth={"method": "local", "max_in_flight": 4, "lag": 1})
    feed, reported = line.workers[0].upstream, []
    assert isinstance(feed, Feed)
    feed.data.train.report = lambda index, nats, labels: reported.append(index)  # type: ignore[method-assign]
    line.run()
    assert reported == list(range(STEPS - 4))


def test_head_for_numbers_is_a_regression_on_the_same_loss() -> None:
    """L = |W v + b - y|^2 / 2: dL/dv = W^T error, and the head steps along the mean of error v^T over the 6 rows."""
    cut = LocalInterface(4, classes=2, learning_rate=0.0, function=SquaredError())
    linear = cut.head[0]
    assert isinstance(linear, nn.Linear)
    value, labels = torch.randn(2, 3, 4), torch.randn(2, 3, 2)
    error = value @ linear.weight.T + linear.bias - labels
    torch.testing.assert_close(cut.gradient(1, value, labels), error @ linear.weight)
    expected = error.flatten(0, 1).T @ value.flatten(0, 1) / 6
    torch.testing.assert_close(linear.weight.grad, expected)
    assert cut.local_loss == pytest.approx((error.square().sum() / 2 / 6).item())
