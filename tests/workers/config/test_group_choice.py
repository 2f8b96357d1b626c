"""A choice of a group must name an option: Hydra itself ends in a traceback on `depth=null`."""

from __future__ import annotations

import pytest

from tests.support.refusals import refusal_of
from workers.config.group_choice import refuse_nameless_choices


@pytest.mark.parametrize("word", ["loss=null", "+loss=null", "loss=2", "loss=false", "~loss=2", "loss=null,x"])
def test_a_choice_without_a_name_is_refused(word: str) -> None:
    message = f"{word} names no option: write loss=NAME, where NAME is cross_entropy or squared_error"
    assert refusal_of(refuse_nameless_choices, ["steps=3", word]) == message


def test_every_option_of_the_group_is_listed() -> None:
    message = refusal_of(refuse_nameless_choices, ["predictor/time=null"])
    assert message is not None
    assert message.endswith("where NAME is critic or linear or mlp or soft_label_critic")


@pytest.mark.parametrize(
    "word",
    ["loss=x", "loss='x'", "loss=x,y", "loss=[x,y]", "loss={a: 1}", "~loss", "loss=[x", "loss.x=null", "steps=2"],
)
def test_other_words_pass(word: str) -> None:
    refuse_nameless_choices([word])
