"""A model that a function builds: its parameters are the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ClassVar

from torch import nn

from dni.models.base import Model, ModelContext, Parts
from dni.plugin import call_with, class_of

#: The parameter that is given the `ModelContext`.
CONTEXT = "context"

Build = Callable[..., nn.Module | Parts]


class FunctionModel(Model):
    """Base class of models that are made from a function."""

    function: ClassVar[Build]

    def build(self, context: ModelContext) -> nn.Module | Parts:
        built: nn.Module | Parts = call_with(type(self).function, self, **{CONTEXT: context})
        return built


@cache
def model_of(function: Build) -> type[Model]:
    """Return the model class whose `build` calls the function.

    Parameters with a type and a default are settings; one named `context` is given the `ModelContext`. Raises
    ConfigError for other parameters.
    """
    return class_of(function, FunctionModel, (CONTEXT,))
