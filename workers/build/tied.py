"""Parameters of the model that several stages share, with the settings of the run."""

from __future__ import annotations

from dni.models.base import TiedKind
from dni.stages.tied import Tied, tied
from workers.build.model import build_chains
from workers.config.settings import Config


def ties_of(config: Config) -> list[Tied]:
    """Return the parameters that stages exchange. Seeds torch."""
    return tied(build_chains(config)) if config.model.tied is TiedKind.sum and config.parts > 1 else []
