"""Short names of the package's own classes in the settings of tests: `depth={"method": "local"}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"

#: Key that holds the short name, by section.
SHORT = {
    "data": "kind", "model": "kind", "depth": "method", "time": "method", "predictor.depth": "kind",
    "predictor.time": "kind", "transport": "kind", "optimizer": "kind", "optimizer.schedule": "kind",
}  # fmt: skip


def spelled_out(settings: Any) -> dict[str, Any]:
    """Replace every short name in settings by `_target_`."""
    plain = OmegaConf.to_container(OmegaConf.create(settings))
    assert isinstance(plain, dict)
    for section, key in SHORT.items():
        node = _place(plain, section)
        if key in node:
            file = yaml.safe_load((CONF / section.replace(".", "/") / f"{node.pop(key)}.yaml").read_text())
            node["_target_"] = file["_target_"]
    return {str(key): value for key, value in plain.items()}


def _place(tree: Any, section: str) -> Any:
    for part in section.split("."):
        tree = tree.get(part, {})
    return tree


def from_words(words: str) -> dict[str, Any]:
    """Parse settings like `depth.method=local depth.lag=3`, without Hydra."""
    return spelled_out(OmegaConf.from_dotlist(words.split()))
