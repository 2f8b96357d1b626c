"""The names nearest to one that is misspelt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from workers.config.renamed import now_written

#: Names that are less alike than this are not worth a suggestion.
ALIKE = 0.65


def nearest(word: str, names: Sequence[str]) -> list[str]:
    """At most three of the (dotted) names, the most alike first; none that is much less alike than the first."""
    scored = sorted(((_likeness(word, name), name) for name in names), key=lambda pair: (-pair[0], pair[1].count(".")))
    least = max(ALIKE, scored[0][0] - 0.1) if scored else 1.0
    return [name for score, name in scored if score >= least][:3]


def did_you_mean(word: str, names: Sequence[str], start: str = "") -> str:
    """A question to be put after a refusal: " (did you mean START + NAME?)"; empty if no name is near."""
    found = nearest(word, names)
    return f" (did you mean {' or '.join(f'`{start}{name}`' for name in found)}?)" if found else ""


def suggestion(message: str, settings: Mapping[str, Sequence[str]]) -> str:
    """The question after a message of Hydra or OmegaConf, where that names something it does not know.

    `settings`: the dotted names of all settings and sections, and which options alone have them (empty: all). Options
    and values are those the message lists.
    """
    if option := re.search(r"Could not find '([\w/]+)/([^'/]+)'.*Available options in '\S+': ([\w ]+)", message):
        group, word, known = option.groups()
        return did_you_mean(word, known.split(), f"{group}=")
    if value := re.search(r"(?:([\w.]+): )?Invalid value '([^']*)', expected one of \[(.*?)\]", message):
        key, word, known = value.groups()
        return did_you_mean(word, known.split(", "), f"{key}=" if key else "")
    for pattern in (r"Could not override '([\w.]+)'", r"([\w.]+): Key '\w+' not in", r"Key '(\w+)' not in"):
        if key := re.search(pattern, message):
            return now_written(key.group(1)) or _elsewhere(key.group(1), settings)
    return ""


def _elsewhere(name: str, settings: Mapping[str, Sequence[str]]) -> str:
    """Which options have a setting, if some have; else the names like it."""
    if settings.get(name):
        return f" ({' and '.join(settings[name])} alone {'have' if len(settings[name]) > 1 else 'has'} this setting)"
    return did_you_mean(name, [*settings])


def _likeness(word: str, name: str) -> float:
    """From 0 to 1: how much a word is like a name, or its last part like the name's, whose initials count as well."""
    (parent, _, last), (section, _, own) = word.rpartition("."), name.rpartition(".")
    short = "".join(part[:1] for part in own.split("_"))
    part = 0.95 if last == short and len(short) > 1 else _ratio(last, own)
    return max(_ratio(word, name), part if parent in ("", section) else 0.85 * part)


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
