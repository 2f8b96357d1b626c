"""Probes agree with an independent computation of their figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain, pack
from dni.types import IGNORED
from tests.support.workers.probe_rig import WINDOWS, B, D, L, Rig, T, V, probe, training


class Whole:
    """The unsplit model over the whole sequence in one graph: exact gradients at every cut."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        frame = probe().tensors
        states = [c.initial_state(B) for c in chains]
        self.entering: list[list[Tensor]] = [[] for _ in chains]  # inputs of each chain, by window
        self.outputs: list[list[Tensor]] = [[] for _ in chains]
        self.states: list[list[Any]] = [[] for _ in chains]
        total = torch.zeros((), dtype=torch.float64)
        for n in range(WINDOWS):
            x = frame["value"][:, n * T : (n + 1) * T]
            for k, chain in enumerate(chains):
                self.entering[k].append(x)
                x, states[k] = chain(x, states[k])
                self.outputs[k].append(x)
                self.states[k].append(states[k])
            total = total + summed_cross_entropy(x, frame["labels"][:, n * T : (n + 1) * T])
        self.total, self.chains = total, chains

    def gradients(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(self.total, list(wanted), retain_graph=True))

    def parameters(self, k: int) -> Tensor:
        return flat(self.gradients(list(self.chains[k].parameters())))

    def cuts(self, k: int) -> list[Tensor]:
        return [pack(tuple(self.gradients(state))) for state in self.states[k][:-1]]

    def depth(self, k: int) -> list[Tensor]:
        return self.gradients(self.outputs[k])

    def windowed(self, k: int, answers: Sequence[Tensor]) -> Tensor:
        """Return gradients of sum_n <output_n, exact> + <state_n, answer_n>, with windows cut apart."""
        surrogate = torch.zeros((), dtype=torch.float64)
        state = self.chains[k].initial_state(B)
        for n, exact in enumerate(self.depth(k)):
            output, after = self.chains[k](self.entering[k][n].detach(), tuple(s.detach() for s in state))
            surrogate = surrogate + (output * exact).sum()
            if n < len(answers):
                surrogate = surrogate + (pack(after) * answers[n]).sum()
            state = after
        return flat(list(torch.autograd.grad(surrogate, list(self.chains[k].parameters()))))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / math.sqrt(float((a * a).sum() * (b * b).sum())))


def compared(predicted: Sequence[Tensor], exact: Sequence[Tensor]) -> list[Any]:
    p, e = torch.stack(list(predicted)), torch.stack(list(exact))
    mean = sum(cosine(a, b) for a, b in zip(predicted, exact, strict=True)) / len(exact)
    return [pytest.approx(mean), pytest.approx(float(1 - ((p - e) ** 2).sum() / (e**2).sum())),
            pytest.approx(float(p.norm() / e.norm()))]  # fmt: skip


def shown(record: dict[str, Any], cut: str) -> list[Any]:
    return [record[f"{cut}_{figure}"] for figure in ("cosine", "r2", "norm")]


@pytest.mark.parametrize("lag", [None, 1])
@pytest.mark.parametrize("stages", [1, 2])
def test_the_figures_are_those_of_one_graph_over_the_unsplit_model(stages: int, lag: int | None) -> None:
    rig = Rig(stages)
    records = rig.run([training(1), training(2), probe(2)], lag)  # the parameters are then those of the probe
    chains, labels = [stage.module for stage in rig.stages], probe().tensors["labels"]
    whole = Whole(chains)
    assert [record["stage"] for record in records] == list(range(stages))
    for k, record in enumerate(records):
        time = rig.time[k]
        assert isinstance(time, DecoupledInterface)
        with torch.no_grad():
            answers = [time.predictor(pack(s), labels[:, n * T : n * T + L])
                       for n, s in enumerate(whole.states[k][:-1], 1)]  # fmt: skip
        assert shown(record, "time") == compared(answers, whole.cuts(k))
        assert record["parameters"] == pytest.approx(cosine(whole.windowed(k, answers), whole.parameters(k)))
        assert record["truncated"] == pytest.approx(cosine(whole.windowed(k, []), whole.parameters(k)))
        assert 0 < abs(record["time_cosine"]) < 0.999
        assert record["parameters"] != pytest.approx(record["truncated"], abs=1e-3)
    assert shown(records[-1], "depth") == [None] * 3
    if stages == 2:
        depth = rig.depth[0]
        assert isinstance(depth, DecoupledInterface)
        with torch.no_grad():
            parts = labels[:, : T * WINDOWS].split(T, dim=1)
            answers = [depth.predictor(y, part) for y, part in zip(whole.outputs[0], parts, strict=True)]
        assert shown(records[0], "depth") == compared(answers, whole.depth(0))


class Scripted(DecoupledInterface):
    """Predicts the given gradients, one after another."""

    def __init__(self, answers: Sequence[Tensor]) -> None:
        super().__init__(Regressor(1))
        self.answers: Iterator[Tensor] = iter(answers)

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        return next(self.answers)


def test_exact_gradients_score_one_at_both_cuts_of_both_stages() -> None:
    rig = Rig(2)
    whole = Whole([stage.module for stage in rig.stages])
    rig.time = [Scripted(whole.cuts(k)) for k in (0, 1)]
    rig.depth[0] = Scripted(whole.depth(0))
    for record in rig.run([probe()]):
        assert shown(record, "time") == [pytest.approx(1)] * 3
        assert record["parameters"] == pytest.approx(1)
        assert record["truncated"] < 0.999
        if record["stage"] == 0:
            assert shown(record, "depth") == [pytest.approx(1)] * 3


def test_a_cut_without_a_predictor_has_only_the_figure_of_truncation() -> None:
    rig = Rig(2, depth="backprop", time="truncated")
    whole = Whole([stage.module for stage in rig.stages])
    for k, record in enumerate(rig.run([probe()])):
        assert shown(record, "time") == shown(record, "depth") == [None] * 3
        assert record["parameters"] == record["truncated"]
        assert record["truncated"] == pytest.approx(cosine(whole.windowed(k, []), whole.parameters(k)))


def test_one_window_or_no_state_has_no_cut_in_time() -> None:
    single = probe()
    single.tensors["windows"] = torch.tensor([T * WINDOWS])
    stateless = Rig(1, time="truncated")
    stateless.stages[0].module = Chain(nn.Embedding(V, D), nn.Linear(D, V)).double()
    for rig, frame in ((Rig(2), single), (stateless, probe())):
        for record in rig.run([frame]):
            assert (record["time_cosine"], record["parameters"], record["truncated"]) == (None, None, None)


def test_without_a_counted_label_figures_are_nan() -> None:
    empty = probe()
    empty.tensors["labels"].fill_(IGNORED)
    for record in Rig(2).run([empty]):
        assert all(math.isnan(value) for value in shown(record, "time"))
        assert record["parameters"] == 0


def test_the_loss_of_a_predictor_is_its_mean_since_the_last_probe() -> None:
    rig = Rig(1)
    time = rig.time[0]
    assert isinstance(time, DecoupledInterface)
    losses: list[float] = []
    measure = time._measure
    time._measure = lambda step, loss, *rest: (losses.append(loss), measure(step, loss, *rest))  # type: ignore
    first, second, third = rig.run([*map(training, (1, 2, 3)), probe(3), training(4), training(5), probe(5), probe(6)])
    assert len(losses) == 4  # of the cuts after steps 1 to 4
    assert first["time_loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert second["time_loss"] == pytest.approx(sum(losses[2:]) / 2)
    assert (third["time_loss"], first["depth_loss"]) == (None, None)
