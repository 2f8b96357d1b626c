"""Suggest names for a misspelt one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from workers.config.renamed import now_written

#: Lowest similarity of a suggestion.
LEAST_SIMILARITY = 0.65


def nearest(word: str, names: Sequence[str]) -> list[str]:
    """Return up to three of the (dotted) names, the most similar first; each within 0.1 of the first one's score."""
    scored = sorted(
        ((_similarity(word, name), name) for name in names), key=lambda pair: (-pair[0], pair[1].count("."))
    )
    least = max(LEAST_SIMILARITY, scored[0][0] - 0.1) if scored else 1.0
    return [name for score, name in scored if score >= least][:3]


def did_you_mean(word: str, names: Sequence[str], start: str = "") -> str:
    """Return the question " (did you mean `START NAME`?)" to end a message with; empty if no name is similar."""
    found = nearest(word, names)
    return f" (did you mean {' or '.join(f'`{start}{name}`' for name in found)}?)" if found else ""


def suggestion(message: str, settings: Mapping[str, Sequence[str]]) -> str:
    """Return a hint to end a message of Hydra or OmegaConf about an unknown name; empty for other messages.

    `settings` maps the dotted name of every setting and section to the options that have it (empty: all). Candidates
    for options and values are those that the message lists.
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
    """Say which options have a setting, if only some have it; otherwise suggest similar names."""
    if settings.get(name):
        return f" (only {' and '.join(settings[name])} {'have' if len(settings[name]) > 1 else 'has'} this setting)"
    return did_you_mean(name, [*settings])


def _similarity(word: str, name: str) -> float:
    """Return the similarity, 0 to 1, of whole names or of their last parts; initials match a last part."""
    (parent, _, last), (section, _, own) = word.rpartition("."), name.rpartition(".")
    initials = "".join(part[:1] for part in own.split("_"))
    part = 0.95 if last == initials and len(initials) > 1 else _ratio(last, own)
    return max(_ratio(word, name), part if parent in ("", section) else 0.85 * part)


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
