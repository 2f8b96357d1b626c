"""A planted layer that makes values or gradients explode is named; deep models that are sound pass."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.pictures import digits
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.checks.scales import check_scales
from workers.checks.verdict import Verdict

DEEP = "tests.support.workers.deep.Deep"
BITS: dict[str, Any] = {"_target_": "tests.plugin.counting.Bits", "batch": 32, "window": 6, "sequence": 6}


def of(**changes: Any) -> Verdict:
    return check_scales(*resolve(tiny(**{"depth": {"method": "backprop"}, "stages": 2, **changes})))


def deep(**planted: Any) -> Verdict:
    return of(data=BITS, model={"_target_": DEEP, "layers": 24, **planted})


def test_deep_models_that_keep_their_scale_pass() -> None:
    """24 layers of He's weights, and as many that shrink values to half of that each: these do not explode."""
    assert deep().passed, deep().reason
    assert deep(factor=0.5, every=True).passed


def test_a_layer_that_makes_values_explode_is_named() -> None:
    verdict = deep(factor=1e4)
    assert not verdict.passed
    assert verdict.reason.startswith("planted12 (Times) multiplies the scale of values by 1e+04: behind planted12 ")
    assert verdict.reason.endswith("lower the first weights of planted12 (model.init), or put a norm behind it")


def test_values_that_grow_a_little_in_every_layer_are_found() -> None:
    """Threefold in each of 24 layers: above 100 before the eighth."""
    verdict = deep(factor=3.0, every=True)
    assert not verdict.passed
    assert " multiplies the scale of values by 3" in verdict.reason
    behind = verdict.reason.partition("behind planted")[2].partition(" ")[0]
    assert int(behind) in range(4, 8)


def test_a_layer_that_makes_gradients_alone_explode_is_named() -> None:
    verdict = deep(factor=1e5, steep=True)
    assert not verdict.passed
    assert verdict.reason.startswith(
        "planted12 (Sawtooth) multiplies the norm of the gradient by 1e+05 on its way back"
    )


def test_values_that_are_not_finite_are_found_at_their_layer() -> None:
    verdict = deep(factor=float("1e39"))
    assert not verdict.passed
    assert verdict.reason.startswith("the output of planted12 (Times) is not finite at the first step")


@pytest.mark.parametrize("kind", ["lstm", "mlp", "residual", "transformer"])
def test_deep_models_of_the_package_pass(kind: str) -> None:
    verdict = of(model={"kind": kind, "units": 16, "layers": 12})
    assert verdict.passed, verdict.reason


def test_a_deep_residual_net_with_batch_norm_passes(tmp_path: Any) -> None:
    data = {"kind": "mnist", "path": str(digits(tmp_path)), "batch": 16, "window": 1, "sequence": None}
    verdict = of(model={"kind": "resnet", "units": 4, "layers": 3}, data=data)
    assert verdict.passed, verdict.reason
