"""Common base of the classes that a section of settings can name with `_target_`."""

from __future__ import annotations

from typing import Any, ClassVar

#: The settings of a run (`workers.config.settings.Config`), whose sections a class may read in its `check`.
RunContext = Any


class Named:
    """Mixin that gives a class its name in messages, summaries and reports."""

    name: ClassVar[str] = ""  #: defaults to the name of the class

    def __init_subclass__(cls) -> None:
        cls.name = vars(cls).get("name", cls.__name__)
