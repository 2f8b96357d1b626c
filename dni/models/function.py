"""A model that a function builds: its parameters are the settings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, get_type_hints

from torch import nn

from dni.errors import ConfigError
from dni.models.base import Model, ModelContext, Parts

#: The parameter that is given the `ModelContext`.
CONTEXT = "context"

Build = Callable[..., nn.Module | Parts]


class FunctionModel(Model):
    """Base class of models that are made from a function."""

    function: ClassVar[Build]

    def build(self, context: ModelContext) -> nn.Module | Parts:
        parameters = inspect.signature(self.function).parameters
        own = {name: getattr(self, name) for name in parameters if name != CONTEXT}
        given = {CONTEXT: context} if CONTEXT in parameters else {}
        return type(self).function(**given, **own)


@cache
def model_of(function: Build) -> type[Model]:
    """Return the model class whose `build` calls the function.

    Parameters with a type and a default are settings; one named `context` is given the `ModelContext`. Raises
    ConfigError for other parameters.
    """
    settings = [_setting(function, each) for name, each in _parameters(function) if name != CONTEXT]
    namespace = {"function": staticmethod(function), "name": function.__name__, "__doc__": function.__doc__}
    made = dataclasses.make_dataclass(function.__name__, settings, bases=(FunctionModel,), namespace=namespace)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made


def _parameters(function: Build) -> list[tuple[str, inspect.Parameter]]:
    return [*inspect.signature(function).parameters.items()]


def _setting(function: Build, parameter: inspect.Parameter) -> tuple[str, Any, Any]:
    """Return name, type and default of a parameter, as `make_dataclass` takes them."""
    name, kinds = parameter.name, get_type_hints(function)
    if parameter.default is parameter.empty or name not in kinds:
        raise ConfigError(
            f"{function.__module__}.{function.__name__}: the parameter {name} needs a type and a default to be a "
            f"setting: write {name}: int = 128, say (only {CONTEXT} has none)"
        )
    default = parameter.default
    if isinstance(default, list | dict):
        return name, kinds[name], dataclasses.field(default_factory=lambda: type(default)(default))
    return name, kinds[name], dataclasses.field(default=default)
