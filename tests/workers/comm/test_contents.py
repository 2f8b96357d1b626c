"""Well-formed frames with tensors that contradict the settings are refused, on every transport."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.errors import WrongTensor
from tests.support.edges import (
    ALL_FALSE,
    IMAGES,
    MULTI_RATE,
    SCALAR,
    TEXT,
    B,
    C,
    D,
    T,
    V,
    edge,
    evaluated,
    images,
    probe,
    shorten_tensor,
    step,
    window,
)
from tests.support.runs import tiny
from tests.support.transports import EVERY, linked
from workers.build.data import resolve
from workers.comm.contents import Contents, TensorSpec
from workers.comm.frame import Frame, Kind
from workers.launch.launcher import launch
from workers.runtime.assembly import contents_of

SERIES = replace(TEXT, numbers=2)  # two targets per row

VALID: list[tuple[Contents, Kind, int, dict[str, Tensor]]] = [
    (TEXT, Kind.STEP, 1, step()),
    (TEXT, Kind.STEP, 1, step() | {"last": SCALAR}),
    (TEXT, Kind.EVALUATE, 1, evaluated()),
    (SERIES, Kind.STEP, 1, step() | {"labels": torch.full((B, T, 2), -99.5)}),
    (SERIES, Kind.PROBE, 1, probe() | {"labels": torch.zeros(*probe()["labels"].shape, 2)}),
    (TEXT, Kind.PROBE, 1, probe()),
    (TEXT, Kind.CHECKPOINT, 1, {}),
    (TEXT, Kind.END, 1, {}),
    (IMAGES, Kind.STEP, 1, images()),
    (IMAGES, Kind.EVALUATE, 1, images(1)),
    (MULTI_RATE, Kind.STEP, 4, window()),
    (MULTI_RATE, Kind.STEP, 5, {"reset": ALL_FALSE, "done": ALL_FALSE}),
    (MULTI_RATE, Kind.EVALUATE, 5, {"reset": ALL_FALSE, "done": ALL_FALSE, "index": torch.tensor(3)}),
    (MULTI_RATE, Kind.EVALUATE, 5, window() | {"index": torch.tensor(4)}),
]


@pytest.mark.parametrize(("contents", "kind", "number", "tensors"), VALID)
def test_frames_that_match_the_settings_pass(
    contents: Contents, kind: Kind, number: int, tensors: dict[str, Tensor]
) -> None:
    contents.check(Frame(kind, number, tensors=tensors), "here")
    with pytest.raises(WrongTensor, match=r"^here: "):
        contents.check(Frame(kind, number, tensors=tensors | {"nothing": SCALAR}), "here")


long = torch.long
WRONG: list[tuple[Contents, Kind, dict[str, Any], str]] = [
    (TEXT, Kind.STEP, {"value": torch.zeros(B, T, D + 1)}, r"'value' is float32 \(3, 2, 6\), .* float32 \(3, 2, 5\)"),
    (TEXT, Kind.STEP, {"value": torch.zeros(B + 1, T, D)}, r"'value' is float32 \(4, 2, 5\), .* float32 \(3, 2, 5\)"),
    (TEXT, Kind.STEP, {"value": torch.zeros(B, T + 1, D)}, r"'value' is float32 \(3, 3, 5\), .* float32 \(3, 2, 5\)"),
    (TEXT, Kind.STEP, {"value": torch.zeros(B, T * D)}, r"'value' is float32 \(3, 10\), .* float32 \(3, 2, 5\)"),
    (TEXT, Kind.STEP, {"value": torch.zeros(())}, r"'value' is float32 \(\), .* float32 \(3, 2, 5\)"),
    (TEXT, Kind.STEP, {"value": torch.zeros(B, T, D, dtype=torch.float64)}, r"'value' is float64 .* say float32 "),
    (TEXT, Kind.STEP, {"value": None}, r"it has the tensors \['context', 'done', 'labels', 'reset'\], .* 'value'\]"),
    (TEXT, Kind.STEP, {"gradient": torch.zeros(B, T, D)}, r"it has the tensors \['context', 'done', 'gradient', "),
    (TEXT, Kind.STEP, {"labels": torch.zeros(B, T + 1, dtype=long)}, r"'labels' is int64 \(3, 3\), .* int64 \(3, 2\)"),
    (TEXT, Kind.STEP, {"labels": torch.zeros(B, T)}, r"'labels' is float32 \(3, 2\), .* int64 \(3, 2\)"),
    (SERIES, Kind.STEP, {}, r"'labels' is int64 \(3, 2\), the settings say float32 \(3, 2, 2\)"),
    (SERIES, Kind.STEP, {"labels": torch.zeros(B, T, 1)}, r"'labels' is float32 \(3, 2, 1\), .* float32 \(3, 2, 2\)"),
    (TEXT, Kind.STEP, {"labels": torch.full((B, T), V)}, "'labels' are from 7 to 7, the settings say -1 to 6"),
    (TEXT, Kind.STEP, {"labels": torch.full((B, T), -2)}, "'labels' are from -2 to -2, the settings say -1 to 6"),
    (TEXT, Kind.STEP, {"reset": torch.zeros(B)}, r"'reset' is float32 \(3,\), the settings say bool \(3,\)"),
    (TEXT, Kind.STEP, {"reset": ALL_FALSE[:2]}, r"'reset' is bool \(2,\), the settings say bool \(3,\)"),
    (TEXT, Kind.STEP, {"done": torch.zeros(B, 1, dtype=torch.bool)}, r"'done' is bool \(3, 1\), .* bool \(3,\)"),
    (TEXT, Kind.STEP, {"context": torch.zeros(B, C + 1, dtype=long)}, r"'context' is int64 \(3, 5\), .* \(3, 4\)"),
    (TEXT, Kind.STEP, {"context": torch.full((B, C), 6)}, "'context' are from 6 to 6, the settings say -1 to 5"),
    (TEXT, Kind.STEP, {"last": torch.tensor([1])}, r"'last' is int64 \(1,\), the settings say int64 \(\)"),
    (TEXT, Kind.EVALUATE, {"value": torch.zeros(1, T, D)}, r"'value' is float32 \(1, 2, 5\), .* \(3, 2, 5\)"),
    (TEXT, Kind.EVALUATE, {"index": SCALAR}, r"it has the tensors \['done', 'index', "),
    (TEXT, Kind.EVALUATE, {"labels": torch.full((B, T), V)}, "'labels' are from 7 to 7"),
    (TEXT, Kind.PROBE, {"value": torch.zeros(B, 4, D)}, r"'windows' are \[2, 1\], and 'value' has 4 steps"),
    (TEXT, Kind.PROBE, {"value": torch.zeros(B)}, r"'windows' are \[2, 1\], and 'value' has 0 steps"),
    (TEXT, Kind.PROBE, {"value": torch.zeros(B, 3, D + 1)}, r"'value' is float32 \(3, 3, 6\), .* \(3, 3, 5\)"),
    (TEXT, Kind.PROBE, {"windows": torch.tensor([4, -1])}, r"'windows' are \[4, -1\]"),
    (TEXT, Kind.PROBE, {"windows": torch.tensor(3)}, r"'windows' is int64 \(\)"),
    (TEXT, Kind.PROBE, {"context": torch.zeros(1, B, C, dtype=long)}, r"'context' is int64 \(1, 3, 4\), "),
    (TEXT, Kind.PROBE, {"labels": torch.full((B, 3), V)}, "'labels' are from 7 to 7"),
    (TEXT, Kind.CHECKPOINT, {"value": torch.zeros(1)}, r"it has the tensors \['value'\], and the settings say \[\]"),
    (TEXT, Kind.END, {"last": SCALAR}, r"it has the tensors \['last'\], and the settings say \[\]"),
    (IMAGES, Kind.STEP, {"value": torch.zeros(B, 2, 4, 5)}, r"'value' is float32 \(3, 2, 4, 5\), .* \(3, 2, 4, 4\)"),
    (IMAGES, Kind.STEP, images(2), r"'reset' is bool \(2,\), the settings say bool \(3,\)"),
    (IMAGES, Kind.STEP, {"labels": torch.zeros(B, 1, dtype=long)}, r"'labels' is int64 \(3, 1\), .* int64 \(3,\)"),
    (IMAGES, Kind.EVALUATE, images(4), r"'reset' is bool \(4,\), the settings say bool \(3,\)"),
    (IMAGES, Kind.EVALUATE, images(0), r"'reset' is bool \(0,\), the settings say bool \(3,\)"),
    (MULTI_RATE, Kind.EVALUATE, {"index": torch.ones(2)}, r"'index' is float32 \(2,\), the settings say int64 \(\)"),
]  # fmt: skip


@pytest.mark.parametrize(("contents", "kind", "changed", "message"), WRONG)
def test_other_frames_are_refused(contents: Contents, kind: Kind, changed: dict[str, Any], message: str) -> None:
    right = {Kind.STEP: step, Kind.EVALUATE: evaluated, Kind.PROBE: probe}.get(kind, dict)()
    right = images() if contents is IMAGES else window() if contents is MULTI_RATE else right
    tensors = {name: tensor for name, tensor in (right | changed).items() if tensor is not None}
    with pytest.raises(
        WrongTensor, match=rf"^here: {message}.*; a model must send the same tensors at every step, and both stages"
    ):
        contents.check(Frame(kind, 2, tensors=tensors), "here")


def test_contents_follow_from_the_settings() -> None:
    time = {"method": "synthetic"}
    config, data = resolve(tiny(time=time, predictor={"time": {"kind": "critic", "future_labels": 3}}))
    expected = Contents(
        {"": TensorSpec((8,), torch.float32)}, 4, data.symbols, steps=6, context=3, context_symbols=data.symbols
    )
    assert contents_of(config, 1) == expected
    config, _ = resolve(tiny(data={"kind": "copy"}, time={"method": "full"}))
    assert contents_of(config, 1) == Contents({"": TensorSpec((8,), torch.float32)}, 4, 3, context_symbols=3)


@pytest.mark.parametrize("transport", EVERY)
def test_every_transport_reports_a_wrong_activation_and_the_edge_stays_usable(transport: str) -> None:
    with linked(EVERY[transport]()) as ends:
        down, up = edge(ends)
        down.send(Kind.STEP, 1, step() | {"value": torch.zeros(B, T, 1)})
        down.send(Kind.STEP, 2, step())
        with pytest.raises(
            WrongTensor, match=r"stage 1: STEP of step 1 from stage 0: 'value' is float32 \(3, 2, 1\), "
        ):
            up.receive()
        assert up.receive().step == 2


@pytest.mark.parametrize(
    ("kind", "name", "at"),
    [(Kind.STEP, "value", 3), (Kind.STEP, "reset", 3), (Kind.EVALUATE, "value", 4), (Kind.PROBE, "value", 5)],
)
def test_a_run_ends_with_the_name_of_the_wrong_tensor(
    kind: Kind, name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_tensor(monkeypatch, kind, name, {at})
    with pytest.raises(WrongTensor, match=rf"^stage 1: {kind.name} of step {at} from stage 0: '{name}' is "):
        launch(tiny(evaluate={"every": 4, "windows": 2, "probe": 5}), tmp_path)
