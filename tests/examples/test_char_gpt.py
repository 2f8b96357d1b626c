"""examples/char_gpt learns."""

from __future__ import annotations

from pathlib import Path

from tests.support.examples import Import, run
from workers.launch.launcher import launch


def test_the_gpt_of_characters_learns(import_example: Import, tmp_path: Path) -> None:
    import_example("char_gpt", "gpt")
    model = {"_target_": "gpt.parts", "layers": 2, "width": 16, "heads": 2, "context_length": 8}
    short, long = (
        launch(run(model, steps=steps, optimizer={"learning_rate": 3e-3}, depth={"method": "backprop"}),
               tmp_path / str(steps)).summary
        for steps in (2, 80)
    )  # fmt: skip
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]
