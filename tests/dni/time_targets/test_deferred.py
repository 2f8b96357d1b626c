"""Deferred targets wait for the labels after their state, in the order of steps, and no longer than needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni.time_targets.base import PastWindow
from dni.time_targets.deferred import DeferredTargets
from dni.types import IGNORED

B, T, F = 2, 3, 4
NONE = torch.zeros(B).bool()


def window(step: int, labels: Tensor, reset: Tensor = NONE, done: Tensor = NONE) -> PastWindow:
    context = torch.zeros(B, 0, dtype=torch.int64)
    return PastWindow(step, labels, labels, context, reset, done, None, None, None)


def numbered(step: int) -> Tensor:
    """Labels that encode their step: 10 (step) + 0, 1, 2 in the first stream, 100 more in the second."""
    return 10 * step + torch.arange(T) + torch.tensor([[0], [100]])


def test_a_target_comes_when_its_labels_are_known() -> None:
    deferred, gradients = DeferredTargets(5), torch.randn(5, B, F)
    assert deferred.targets(window(1, numbered(1)), None) == []
    assert deferred.targets(window(2, numbered(2)), gradients[1]) == []
    ((step, gradient, labels),) = deferred.targets(window(3, numbered(3)), gradients[2])
    assert (step, labels is not None and labels[0].tolist()) == (1, [20, 21, 22, 30, 31])
    assert torch.equal(gradient, gradients[1])
    ((step, _, labels),) = deferred.targets(window(4, numbered(4)), gradients[3])
    assert (step, labels is not None and labels[1].tolist()) == (2, [130, 131, 132, 140, 141])


def test_the_end_of_a_sequence_releases_all_and_nothing_after_it_counts() -> None:
    deferred, g = DeferredTargets(7), torch.zeros(B, F)
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    deferred.targets(window(2, numbered(2)), g)
    assert deferred.targets(window(3, numbered(3), done=first), g) == []  # the second stream goes on
    found = deferred.targets(window(4, numbered(4), reset=first, done=second), g)
    labels = {step: known.tolist() for step, _, known in found if known is not None}
    x = IGNORED
    assert labels == {
        1: [[20, 21, 22, 30, 31, 32, x], [120, 121, 122, 130, 131, 132, 140]],
        2: [[30, 31, 32, x, x, x, x], [130, 131, 132, 140, 141, 142, x]],
        3: [[x, x, x, x, x, x, x], [140, 141, 142, x, x, x, x]],
    }
    assert deferred.targets(window(5, numbered(5), reset=~NONE), None) == []


def test_continues_from_its_checkpoint() -> None:
    one, two, gradients = DeferredTargets(5), DeferredTargets(5), torch.randn(5, B, F)
    one.targets(window(2, numbered(2)), gradients[0])
    two.load_state_dict(one.state_dict())
    a, b = (h.targets(window(3, numbered(3)), gradients[1])[0] for h in (one, two))
    assert a.step == b.step == 1
    assert torch.equal(a.gradient, b.gradient)
    assert a.labels is not None
    assert b.labels is not None
    assert torch.equal(a.labels, b.labels)


def test_loaded_targets_move_to_the_windows_device() -> None:
    """Checkpoints are loaded on the CPU. The device `meta` replaces a GPU: tensors of both cannot be mixed either."""
    one, two = DeferredTargets(4), DeferredTargets(4)
    one.targets(window(2, numbered(2)), torch.zeros(B, F))
    two.load_state_dict(one.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__bool__", lambda self: False)  # tensors on `meta` have no values
        found = two.targets(window(3, numbered(3)).to(torch.device("meta")), torch.zeros(B, F, device="meta"))
    assert [target.labels.device.type for target in found if target.labels is not None] == ["meta"]
