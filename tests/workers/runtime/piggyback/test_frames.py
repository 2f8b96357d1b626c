"""Tensors that ride along are declared: others, and those of another shape, are refused or dropped by name."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.errors import WrongTensor
from dni.stages.base import Stage
from dni.stages.tied import Tied
from tests.support.edges import TEXT, step
from workers.comm.downstream import Downstream
from workers.comm.edge import Target, WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.transports.local import local_channel
from workers.runtime.piggyback.global_norm import NORMS_SPEC
from workers.runtime.piggyback.tied_weights import TiedWeights, tied_specs

SHARED = nn.Parameter(torch.zeros(3, 2))
TIE = Tied(SHARED, {0: "embedding.weight", 2: "scores.weight"})
SPECS = tied_specs([TIE], 1)
VALUE, STEPS = "tied.embedding.weight", "tied_steps.embedding.weight"
GRADIENT = {VALUE: torch.ones(3, 2), STEPS: torch.tensor([1, 7])}


def test_a_tie_crosses_the_edges_between_its_stages_alone() -> None:
    assert [sorted(tied_specs([TIE], index)) for index in (1, 2, 3)] == [[VALUE, STEPS], [VALUE, STEPS], []]


@pytest.mark.parametrize("kind", [Kind.STEP, Kind.EVALUATE, Kind.CHECKPOINT, Kind.END])
def test_a_frame_of_any_kind_may_have_the_value(kind: Kind) -> None:
    contents = replace(TEXT, piggybacked=SPECS)
    tensors = {**step(), VALUE: torch.zeros(3, 2)} if kind is Kind.STEP else {VALUE: torch.zeros(3, 2)}
    if kind is Kind.EVALUATE:
        tensors |= {name: each for name, each in step().items() if name != "context"}
    contents.check(Frame(kind, 1, tensors=tensors), "here")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {VALUE: torch.zeros(2, 3)},
            r"'tied\.embedding\.weight' is float32 \(2, 3\), the settings say float32 \(3, 2\)",
        ),
        ({VALUE: torch.zeros(3)}, r"is float32 \(3,\), the settings say float32 \(3, 2\)"),
        ({VALUE: torch.zeros(3, 2).double()}, r"is float64 \(3, 2\), the settings say float32"),
        ({"tied.other": torch.zeros(3, 2)}, r"it has the tensors .*'tied\.other'"),
    ],
)
def test_another_one_is_refused(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(WrongTensor, match=message):
        replace(TEXT, piggybacked=SPECS).check(Frame(Kind.STEP, 1, tensors={**step(), **tensors}), "here")


def replied(specs: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[list[Target], Downstream]:
    a, b = local_channel(8)
    down = Downstream(a, stage=0, window=4, clock=WaitTime(), timeout_s=5, piggybacked=specs)
    down.send(Kind.STEP, 1, step())
    b.send(Frame(Kind.DONE, 1, done_through=1, tensors=tensors))
    return list(down.targets()), down


def test_an_acknowledgement_brings_the_gradient() -> None:
    (target,), _ = replied(SPECS, GRADIENT)
    assert target.gradient is None
    assert target.piggybacked is not None
    assert sorted(target.piggybacked) == [VALUE, STEPS]


@pytest.mark.parametrize(("specs", "tensors"), [
    (SPECS, {**GRADIENT, VALUE: torch.ones(2, 2)}),
    (SPECS, {**GRADIENT, "norms": torch.ones(2).double()}),
    ({"norms": NORMS_SPEC}, {"norms": torch.ones(2, 2).double()}),
    ({"norms": NORMS_SPEC}, {"norms": torch.ones(2)}),
])  # fmt: skip
def test_a_wrong_one_is_dropped_and_counted(specs: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    targets, down = replied(specs, tensors)
    assert targets == []
    assert down.dropped == {"WrongTensor": 1}


def owner() -> TiedWeights:
    module = nn.Sequential()
    module.add_module("embedding", nn.Embedding(3, 2))
    return TiedWeights(Stage(module, torch.optim.SGD(module.parameters(), 1.0)), 0, [TIE])


def test_the_owner_adds_what_has_arrived_and_knows_its_delay() -> None:
    """Gradients of steps 7 and 8, used at step 10, were 3 and 2 steps late."""
    tied = owner()
    for number in (7, 8):
        tied.returned(Target(9, None, piggybacked={VALUE: torch.full((3, 2), 2.0), STEPS: torch.tensor([1, number])}))
    parameter = tied.stage.module.get_parameter("embedding.weight")
    parameter.grad = torch.ones(3, 2)
    tied.before_update(10, 10, move=True)
    assert parameter.grad.tolist() == [[5.0, 5.0]] * 3
    assert tied.figures() == {"tied_delay_steps": 2.5}
    assert tied.reply() == {}


def test_a_stage_that_does_not_move_drops_them() -> None:
    tied = owner()
    tied.returned(Target(9, None, piggybacked=GRADIENT))
    tied.before_update(10, 10, move=False)
    tied.before_update(11, 11, move=True)
    assert tied.stage.module.get_parameter("embedding.weight").grad is None
    assert tied.figures() == {}


def test_a_gradient_without_its_steps_is_refused() -> None:
    with pytest.raises(WrongTensor, match=r"the reply to step 9 has a gradient of embedding\.weight without its steps"):
        owner().returned(Target(9, None, piggybacked={VALUE: torch.ones(3, 2)}))


def test_a_stage_between_passes_values_and_sums_on() -> None:
    between = TiedWeights(SimpleNamespace(set_replicas=lambda values: None, moved=0), 1, [TIE])  # type: ignore[arg-type]
    frame = Frame(Kind.CHECKPOINT, 1, tensors={VALUE: torch.ones(3, 2)})
    between.received(frame)
    assert frame.tensors == {}
    assert [*between.onward()] == [VALUE]
    assert between.onward() == {}
    for number in (7, 8):
        between.returned(Target(9, None, piggybacked={VALUE: torch.ones(3, 2), STEPS: torch.tensor([1, number])}))
    sent = between.reply()
    assert sent[VALUE].tolist() == [[2.0, 2.0]] * 3
    assert sent[STEPS].tolist() == [2, 15]
    assert between.reply() == {}
