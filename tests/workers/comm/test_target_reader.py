"""Gradients are checked against the values that were sent; wrong ones are dropped, counted and logged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dni.errors import WrongTensor
from tests.support.commands import summary_of
from tests.support.edges import SCALAR, B, D, T, edge, probe, shorten_tensor, step
from tests.support.runs import tiny
from tests.support.transports import EVERY, linked
from workers.comm.edge import Loss
from workers.comm.frame import Frame, Kind
from workers.comm.transports.local import local_channel
from workers.launch.launcher import launch

WRONG_REPLIES: list[tuple[dict[str, Tensor], str]] = [
    ({"gradient": torch.zeros(B, T, 1)}, r"'gradient' is float32 \(3, 2, 1\), the value of step 1 was float32"),
    ({"gradient": torch.zeros(1, T, D)}, r"'gradient' is float32 \(1, 2, 5\), the value of step 1 was"),
    ({"gradient": torch.zeros(B, T, D, dtype=torch.int64)}, r"'gradient' is int64 \(3, 2, 5\), the value of"),
    ({"value": torch.zeros(B, T, D)}, r"it has the tensors \['value'\], expected \['gradient'\]"),
    ({"gradient": torch.zeros(B, T, D), "late": SCALAR}, r"'gradient' is .*, the value of step 0 was float32 \(1,\)"),
    ({"gradient": torch.zeros(B, T, D), "late": torch.tensor(-5)}, "'late' is -5, it should be 0 or more"),
    ({"gradient": torch.zeros(B, T, D), "late": torch.zeros(2)}, r"'late' is float32 \(2,\), it should be int64 \(\)"),
    ({"gradient": torch.zeros(B, T, D), "losses": torch.zeros(3)}, r"'losses' is float32 \(3,\), .* float64 \(3, 3\)"),
    (
        {"gradient": torch.zeros(B, T, D), "losses": torch.full((1, 3), torch.nan, dtype=torch.float64)},
        r"'losses' are \[\[nan, nan, nan\]\], where steps and counts should be numbers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "message"), WRONG_REPLIES)
def test_a_wrong_gradient_is_a_missing_target_or_an_error_if_it_is_awaited(
    tensors: dict[str, Tensor], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = local_channel(64)
    down, _ = edge((a, b))
    down.send(Kind.STEP, 0, {"value": torch.zeros(1)})
    down.send(Kind.STEP, 1, step())
    b.send(Frame(Kind.GRADIENT, 1, done_through=2, tensors=tensors))
    with caplog.at_level(logging.WARNING):
        assert list(down.targets()) == []
    assert "target dropped: stage 0: GRADIENT of step 1 from stage 1: " in caplog.text
    assert down.dropped == {"WrongTensor": 1}
    assert down.in_flight == 0
    down.send(Kind.STEP, 1, step())
    b.send(Frame(Kind.GRADIENT, 1, done_through=3, tensors=tensors))
    with pytest.raises(WrongTensor, match=rf"stage 0: GRADIENT of step 1 from stage 1: {message}"):
        list(down.targets(1))


@pytest.mark.parametrize("transport", EVERY)
def test_every_transport_drops_a_wrong_gradient_and_delivers_the_next_one(transport: str) -> None:
    with linked(EVERY[transport]()) as ends:
        down, up = edge(ends)
        for number in (1, 2):
            down.send(Kind.STEP, number, step())
            up.finish(up.receive(), torch.ones(B, T, D if number == 2 else 1), losses=[Loss(number, 1.0, 6)])
        targets = list(down.drain())
        assert [(target.step, target.losses) for target in targets] == [(2, (Loss(2, 1.0, 6),))]
        assert down.dropped == {"WrongTensor": 1}


def test_the_reply_to_a_probe_is_checked_against_the_probe() -> None:
    a, b = local_channel(64)
    down, _ = edge((a, b))
    b.send(Frame(Kind.GRADIENT, 1, done_through=1, tensors={"gradient": torch.zeros(B, T, D)}))
    with pytest.raises(WrongTensor, match=r"'gradient' is float32 \(3, 2, 5\), the value of step 1 was .* \(3, 3, 5\)"):
        down.exchange(Kind.PROBE, 1, probe())


def test_a_gradient_of_a_step_before_the_resume_is_a_target() -> None:
    a, b = local_channel(64)
    down, _ = edge((a, b))
    down.send(Kind.STEP, 8, step())
    for late, steps in ((3, T), (2, T + 1)):
        tensors = {"gradient": torch.zeros(B, steps, D), "late": torch.tensor(late)}
        b.send(Frame(Kind.GRADIENT, 8, tensors=tensors))
    b.send(Frame(Kind.GRADIENT, 8, tensors={"gradient": torch.zeros(B, T, 1), "late": torch.tensor(1)}))
    b.send(Frame(Kind.GRADIENT, 9, tensors={"gradient": torch.zeros(B, T, D)}))
    assert [(target.step, target.late) for target in down.targets()] == [(8, 3), (8, 2)]
    assert down.dropped == {"WrongTensor": 2}


def test_a_run_drops_wrong_gradients_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_tensor(monkeypatch, Kind.GRADIENT, "gradient", {3, 4, 7})
    launch(tiny(stages=3), tmp_path)
    first, second, last = summary_of(tmp_path)["stage"]
    assert first["dropped_targets"] == second["dropped_targets"] == {"WrongTensor": 3}
    assert "dropped_targets" not in last
    assert summary_of(tmp_path)["steps"] == 10
