"""Parameters of the model that several stages share, with the settings of the run."""

from __future__ import annotations

from dni.models.base import TiedKind
from dni.stages.tied import Tied, tied
from workers.build.warm_start import chains_without_content
from workers.config.settings import Config


def ties_of(config: Config) -> list[Tied]:
    """Return the parameters that stages exchange; their values are not there. Seeds torch."""
    return tied(chains_without_content(config)) if config.model.tied is TiedKind.sum and config.parts > 1 else []
