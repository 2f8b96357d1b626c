"""What the classes have in common that a section of settings may name by `_target_`."""

from __future__ import annotations

from typing import Any, ClassVar

#: The settings of a run (`workers.config.settings.Config`), whose sections a class may read in its `check`.
RunContext = Any


class Named:
    """Mixin of the base classes: what a class is called."""

    name: ClassVar[str] = ""  #: in messages, summaries and reports; a class that sets none has its own name

    def __init_subclass__(cls) -> None:
        cls.name = vars(cls).get("name", cls.__name__)
