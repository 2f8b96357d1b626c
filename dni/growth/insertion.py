"""Which layers of a grown model are new, and what the others were called before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dni.errors import ConfigError


@dataclass(frozen=True)
class Insertion:
    """New layers among those of a model."""

    names: dict[str, str]  #: of the earlier layers, in order: what each is called in the grown model
    added: dict[str, tuple[str, ...]]  #: the new layers, by the earlier layer (its earlier name) that they follow

    @property
    def new(self) -> frozenset[str]:
        """The names of all new layers."""
        return frozenset(name for names in self.added.values() for name in names)

    def grown(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Return a part of the earlier layers, in order, with the new layers among them, all by their names now."""
        return tuple(name for layer in layers for name in (self.names[layer], *self.added.get(layer, ())))


def insertion(before: Sequence[str], grown: Sequence[str], after: Sequence[str]) -> Insertion:
    """Return where the layers `grown` has more than `before` are: equally many directly after each layer of `after`.

    All are names of layers in order. Raises ConfigError for a layer that there is not, and for numbers that do not fit.
    """
    unknown = [name for name in after if name not in before]
    if unknown:
        raise ConfigError(f"no layer {unknown[0]} in this model: name layers of {', '.join(before)}")
    more, places = len(grown) - len(before), len(set(after))
    if more < 1 or more % places:
        raise ConfigError(
            f"{_layers(len(grown))} instead of {len(before)} cannot be equally many more after each of "
            f"{', '.join(after)}: change the setting that says how many, or name other layers"
        )
    names: dict[str, str] = {}
    added: dict[str, tuple[str, ...]] = {}
    left = [*grown]
    for name in before:
        names[name] = left.pop(0)
        if name in after:
            added[name], left = tuple(left[: more // places]), left[more // places :]
    return Insertion(names, added)


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''}"
