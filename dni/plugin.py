"""Common base of the classes that a section of settings can name with `_target_`, and classes made from functions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, get_type_hints

from dni.errors import ConfigError

#: The settings of a run (`workers.config.settings.Config`), whose sections a class may read in its `check`.
RunContext = Any


class Named:
    """Mixin that gives a class its name in messages, summaries and reports."""

    name: ClassVar[str] = ""  #: defaults to the name of the class

    def __init_subclass__(cls) -> None:
        cls.name = vars(cls).get("name", cls.__name__)


def class_of(function: Callable[..., Any], base: type, given: tuple[str, ...]) -> type[Any]:
    """Return a dataclass that subclasses `base` and holds a function: `function`.

    Parameters with a type and a default are its settings; the caller gives those in `given`. Raises ConfigError for
    other parameters.
    """
    parameters = inspect.signature(function).parameters.values()
    settings = [_setting(function, each, given) for each in parameters if each.name not in given]
    namespace = {"function": staticmethod(function), "name": function.__name__, "__doc__": function.__doc__}
    made = dataclasses.make_dataclass(function.__name__, settings, bases=(base,), namespace=namespace)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made


def call_with(function: Callable[..., Any], settings: object, **given: Any) -> Any:
    """Call a function with its settings and with those of the `given` arguments that it has."""
    parameters = inspect.signature(function).parameters
    own = {name: given[name] if name in given else getattr(settings, name) for name in parameters}
    return function(**own)


def _setting(
    function: Callable[..., Any], parameter: inspect.Parameter, given: tuple[str, ...]
) -> tuple[str, Any, Any]:
    """Return name, type and default of a parameter, as `make_dataclass` takes them."""
    name, kinds = parameter.name, get_type_hints(function)
    if parameter.default is parameter.empty or name not in kinds:
        raise ConfigError(
            f"{function.__module__}.{function.__name__}: the parameter {name} needs a type and a default to be a "
            f"setting: write {name}: int = 128, say (only {' and '.join(given)} has none)"
        )
    default = parameter.default
    if isinstance(default, list | dict):
        return name, kinds[name], dataclasses.field(default_factory=lambda: type(default)(default))
    return name, kinds[name], dataclasses.field(default=default)
