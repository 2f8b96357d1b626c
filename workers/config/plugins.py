"""Settings sections that name their class with `_target_`: a dataclass of the package or of a user's module.

    depth:
      _target_: my_project.methods.SignFeedback     # every worker imports it from its own path
      strength: 0.5                                 # a field of that class

The fields of the class are the settings of the section. No code is sent over the network or read from a run folder.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dni.data.base import DataSet
from dni.data.torch_sets.function import data_of
from dni.errors import ConfigError
from dni.models.base import Model
from dni.models.function import model_of
from workers.config.quoting import as_text
from workers.config.renamed import now_written
from workers.config.suggest import did_you_mean

T = TypeVar("T")

TARGET = "_target_"

#: The classes that a function may stand for: what makes a class of it.
_OF_FUNCTIONS: Mapping[type, Callable[[Callable[..., Any]], type]] = {Model: model_of, DataSet: data_of}

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def plugin(base: Any, default: Callable[[], T]) -> T:
    """Return a dataclass field for a section that names a subclass of `base`; `default()` makes its default value."""
    made: Any = dataclasses.field(default_factory=default, metadata={"plugin": base})
    return made  # type: ignore[no-any-return]


def plugins(base: Any) -> Any:
    """Return a dataclass field for a list of plug-ins of subclasses of `base`; by default it is empty."""
    return dataclasses.field(default_factory=list, metadata={"plugins": base})


def load_all(section: str, base: type[T], nodes: Sequence[Any]) -> list[T]:
    """Build the objects of a list of MODULE.CLASS, or mappings with `_target_`. Raise ConfigError like `load`."""
    described = [node if isinstance(node, Mapping) else {TARGET: node} for node in nodes]
    return [load(f"{section}.{number}", base, node) for number, node in enumerate(described)]


def load(section: str, base: type[T], node: Mapping[str, Any]) -> T:
    """Build the object that a section describes.

    Raises ConfigError if the module cannot be imported, if the class is abstract, not a dataclass or not a subclass of
    `base`, and for settings that the class does not have.
    """
    cls = find(section, base, node.get(TARGET))
    own = {str(key): value for key, value in node.items() if key != TARGET}
    known = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    for key in own:
        if key not in names:
            raise ConfigError(f"{section}.{key}: {cls.__name__} has no such setting{_hint(section, key, names)}")
    inner = {each.name: _inner(section, each, own.pop(each.name, None)) for each in known if "plugin" in each.metadata}
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), as_text(own)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{section}.{_one_line(error)}") from error
    assert isinstance(made, base)
    for name, value in inner.items():
        setattr(made, name, value)
    return made


def _inner(section: str, field: dataclasses.Field[Any], node: Any) -> Any:
    """Build the plug-in inside another plug-in. Raises ConfigError like `load`."""
    name = f"{section}.{field.name}"
    if not isinstance(node, Mapping | None):
        raise ConfigError(f"{name}={node} names no class{now_written(name)}")
    assert callable(field.default_factory)
    default = target_of(type(field.default_factory()))
    return load(name, field.metadata["plugin"], {TARGET: default, **(node or {})})


def target_of(cls: type) -> str:
    """Return the `_target_` of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def find(section: str, base: type[T], target: Any) -> type[T]:
    """Import the class that a section names. Raises ConfigError if the import fails or it does not fit `base`."""
    choice = f"{section}.{TARGET}={target}"
    if not isinstance(target, str) or not _DOTTED.fullmatch(target):
        raise ConfigError(f"{choice} names no class: write MODULE.CLASS, a {base.__name__}")
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(
            f"{choice}: {module_name} cannot be imported ({type(error).__name__}: {error}): install it, or put its "
            "folder on PYTHONPATH"
        ) from error
    cls = getattr(module, name, None)
    if inspect.isfunction(cls) and base in _OF_FUNCTIONS:
        cls = _OF_FUNCTIONS[base](cls)
    if cls is None:
        known = [own for own, value in vars(module).items() if _is_subclass(value, base)]
        raise ConfigError(f"{choice}: {module_name} has no {name}{did_you_mean(name, known, f'{module_name}.')}")
    return _complete(choice, base, cls)


def _is_subclass(value: Any, base: type[T]) -> TypeGuard[type[T]]:
    """Test for a subclass; on Python 3.10 `list[int]` passes `isclass` but makes `issubclass` fail."""
    return inspect.isclass(value) and get_origin(value) is None and issubclass(value, base)


def _complete(choice: str, base: type[T], cls: Any) -> type[T]:
    if not _is_subclass(cls, base):
        raise ConfigError(f"{choice} is no {base.__name__}: make it a subclass of {target_of(base)}")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise ConfigError(f"{choice} lacks {', '.join(missing)}, which every {base.__name__} has")
    if "__dataclass_fields__" not in vars(cls):
        raise ConfigError(f"{choice} is no dataclass: write @dataclass above it, so that its fields are its settings")
    return cls


def _hint(section: str, key: str, names: list[str]) -> str:
    near = now_written(f"{section}.{key}") or did_you_mean(key, names, f"{section}.")
    return f"{near}; it has: {', '.join(names) or 'none'}"


def _one_line(error: OmegaConfBaseException) -> str:
    """Return the first line of an OmegaConf message, prefixed with the key that the error names."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{error.full_key}: {first}" if error.full_key else first
