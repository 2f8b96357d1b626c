"""Settings that torch's pipelines refuse, each in one line that says what to type."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dni.errors import ConfigError, PartitionError
from tests.support.ranks import piped
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.validation.check import check
from workers.config.validation.pipelines import check_devices


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": 1}, "depth=gpipe needs two stages or more, and stages=1: set stages=2"),
        ({"time": {"method": "synthetic"}}, "which time=synthetic needs: use time=truncated or time=full"),
        ({"time": {"method": "checkpointed"}}, "which time=checkpointed needs: use time=truncated or time=full"),
        ({"launch": {"mode": "threads"}}, "launch=threads start threads: use transport=grpc launch=processes"),
        ({"transport": {"kind": "local"}, "launch": {"mode": "auto"}}, "transport=local launch=auto start threads"),
        ({"depth": {"lag": 1}}, "depth.lag=1 does nothing for depth=gpipe, which runs in torch's pipeline: set "),
        ({"depth": {"virtual_stages": 3}}, "depth.virtual_stages: GPipe has no such setting; it has: max_in_flight"),
        ({"depth": {"method": "backprop", "microbatches": 4}}, "depth.microbatches: Backprop has no such setting"),
        ({"optimizer": {"accumulate": 2}}, "set optimizer.accumulate=1"),
        ({"optimizer": {"staleness": 0.5}}, "set optimizer.staleness=0"),
        ({"evaluate": {"probe": 2}}, "set evaluate.probe=null"),
        ({"transport": {"delay_ms": 5}}, "set transport.delay_ms=0.0"),
        (
            {"transport": {"kind": "grpc", "tls": {"cert": "a.pem", "key": "b", "ca": "c"}}},
            "set transport.tls.cert=null",
        ),
        (
            {"transport": {"kind": "torch_distributed", "backend": "nccl"}},
            "transport.backend=nccl does nothing for depth=gpipe, which runs in torch's pipeline: set "
            "transport.backend=gloo",
        ),
        ({"transport": {"kind": "grpc", "ring_mb": 0}}, "transport.ring_mb=0 does nothing for depth=gpipe"),
        ({"transport": {"kind": "grpc", "checksum": True}}, "transport.checksum=true does nothing for depth=gpipe"),
        ({"depth": {"microbatches": 3}}, "does not divide data.batch=8 into equal parts: set data.batch=9"),
        ({"stages": 3}, "depth.microbatches=null, which is 3, does not divide data.batch=8"),
        ({"depth": {"method": "1f1b", "microbatches": 1}}, "fewer than the 2 stages of depth=1f1b"),
        ({"depth": {"method": "interleaved_1f1b", "virtual_stages": 1}}, "use depth=1f1b"),
        (
            {"depth": {"method": "zero_bubble", "microbatches": 10}, "stages": 3, "data": {"batch": 10}},
            "set depth.microbatches=9, say",
        ),
        ({"depth": {"method": "zero_bubble"}, "model": {"split_points": ["lstm2"]}}, "stages=2 depth.virtual_stages=2"),
        ({"depth": {"microbatches": 0}}, "depth.microbatches=0 must be 1 or more"),
        (
            {"model": {"kind": "mlp_bn"}, "data": {"kind": "mnist", "batch": 2, "window": 1, "sequence": None}},
            "depth.microbatches=null, which is 2, leaves one example in each, and model=mlp_bn has batch norm: set "
            "data.batch=4 or more",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_in_one_line(changes: dict[str, Any], says: str) -> None:
    changes = dict(changes)
    depth = changes.pop("depth", {})
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        check(piped(depth.get("method", "gpipe"), depth=depth, **changes))
    assert "\n" not in str(refused.value)


def test_more_parts_than_layers_are_refused_with_the_possible_numbers() -> None:
    config, _ = resolve(piped("zero_bubble", stages=4, model={"layers": 3}))
    with pytest.raises(PartitionError, match=r"stages=4 with depth.virtual_stages=2 make 8 parts: .* cut into 1 to 5"):
        build_chains(config)


def test_every_stage_has_its_own_gpu_or_none_has_one() -> None:
    config = piped("gpipe")
    check_devices(config, ["cpu", "cpu"])
    check_devices(config, ["cuda:0", "cuda:1"])
    for devices in (["cuda:0", "cuda:0"], ["cpu", "cuda:0"]):
        with pytest.raises(ConfigError, match="needs a GPU of its own for every stage, or none at all"):
            check_devices(config, devices)
    check_devices(tiny(depth={"method": "backprop"}), ["cuda:0", "cuda:0"])
