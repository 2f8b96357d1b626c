"""Probes leave training unchanged."""

from __future__ import annotations

import pytest
import torch

from tests.support.workers.probe_rig import Rig, probe, training
from tests.support.workers.same_state import same


@pytest.mark.parametrize(("depth", "lag"), [("synthetic", 0), ("synthetic", 2), ("backprop", None)])
def test_a_probe_changes_neither_state_nor_the_draws_of_dropout(depth: str, lag: int | None) -> None:
    plain, probed = (Rig(2, depth=depth, dropout=True) for _ in range(2))
    process = torch.get_rng_state()
    plain.run([training(n) for n in range(1, 7)], lag)
    pairs = [[training(n), probe(n)] for n in range(1, 7)]
    records = probed.run([*(frame for pair in pairs for frame in pair), probe(7)], lag)
    for a, b in zip(plain.workers, probed.workers, strict=True):
        same(a.state_dict(), b.state_dict())
        assert all(p.grad is None for p in b.stage.module.parameters())
        assert all(module.training for module in b.stage.module.modules())
    twice = [{key: value for key, value in r.items() if key not in ("step", "wall_s", "time_loss", "depth_loss")}
             for r in records if r["step"] in (6, 7)]  # fmt: skip
    assert twice[0::2] == twice[1::2]  # no dropout: the same parameters, the same figures
    assert torch.equal(torch.get_rng_state(), process)
