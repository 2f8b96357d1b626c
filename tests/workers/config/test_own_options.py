"""A user's class on the command line has its own settings, and none of the class that it replaces."""

from __future__ import annotations

import pytest

from dni.errors import ConfigError
from tests.plugin.label_mean import ByLabel, ByNextLabel
from tests.support.commands import settings
from workers.config.own_options import choose_own_classes

WIRE, SIGN, LABEL = (f"tests.plugin.{name}" for name in ("tcp.Tcp", "sign_feedback.SignFeedback", "label_mean.ByLabel"))


def test_the_words_of_a_command_keep_their_places() -> None:
    """Flags may stand between them; a sweep may mix classes and options of the package."""
    words = ["steps=3", f"transport._target_={WIRE}", "-m", f"depth=local,{SIGN}"]
    assert choose_own_classes(words) == [words[0], f"transport={WIRE}", *words[2:]]


@pytest.mark.parametrize("word", ["data.path=a.txt", "run_id=a.b", "depth.lag=1", "depth=local", "-m", "launch=a.b"])
def test_other_words_stay_as_they_are(word: str) -> None:
    assert choose_own_classes([word]) == [word]


def test_settings_may_stand_beside_a_class_in_braces() -> None:
    config = settings(f"predictor.depth={{_target_: {LABEL}, strength: 2, learning_rate: 0.5}}")
    assert config.predictor.depth == ByLabel(learning_rate=0.5, strength=2.0)
    with pytest.raises(ConfigError, match=r"predictor\.depth\.strengh: ByLabel has no such setting"):
        settings(f"predictor.depth={{_target_: {LABEL}, strengh: 2}}")


def test_a_section_within_a_group_takes_a_class_too() -> None:
    """Its settings may precede or follow it."""
    config = settings(
        "predictor=mlp", "predictor.depth.learning_rate=0.5", f"predictor.depth._target_={LABEL}",
        "predictor.depth.strength=2", "predictor.time._target_=tests.plugin.label_mean.ByNextLabel",
    )  # fmt: skip
    assert config.predictor.depth == ByLabel(learning_rate=0.5, strength=2.0)
    assert config.predictor.time == ByNextLabel()
