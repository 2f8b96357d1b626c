"""The table of one task: a row for each group of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.reporting.aggregate import Group, metrics_of, spread, unit_of, value
from workers.reporting.compare import Difference, find_baseline, interquartile_mean, paired_difference
from workers.reporting.notes import notes


class Column(NamedTuple):
    """A figure of a table."""

    name: str
    place: tuple[str, ...]  #: in the summary; of `stage`: the mean over stages
    form: str


COLUMNS = tuple(
    Column(*each)
    for each in (
        ("valid (bits/label)", ("valid", "bits_per_label"), "{:.3f}"),
        ("valid accuracy", ("valid", "accuracy"), "{:.3f}"),
        ("train (bits/label)", ("train", "bits_per_label"), "{:.3f}"),
        ("time (s)", ("wall_s",), "{:.1f}"),
        ("tokens/s", ("tokens_per_s",), "{:.0f}"),
        ("busy fraction", ("stage", "busy"), "{:.3f}"),
        ("bubble", ("stage", "bubble"), "{:.3f}"),
        ("staleness (steps)", ("stage", "staleness_mean"), "{:.2f}"),
        ("cosine depth", ("stage", "predictor_cosine"), "{:.3f}"),
        ("cosine time", ("stage", "time_cosine"), "{:.3f}"),
        ("peak memory (MB)", ("stage", "peak_rss_mb"), "{:.0f}"),
        ("sent per stage (MB)", ("stage", "sent_mb"), "{:.2f}"),
    )
)


def columns(groups: Sequence[Group]) -> list[Column]:
    """Return all columns: also losses that are not in nats, and metrics with an arrow towards better values."""
    unit = unit_of(groups)
    own = [Column(f"{part} loss ({unit})", (part, "loss"), "{:.4g}") for part in ("valid", "train")] if unit else []
    metrics = [
        Column(f"valid {key} {'↑' if up else '↓'}", ("valid", "metrics", key), "{:.4g}")
        for key, up in metrics_of(groups).items()
    ]
    return [*own, *COLUMNS[:2], *metrics, *COLUMNS[2:]]


def shown_columns(groups: Sequence[Group]) -> list[Column]:
    """Return the columns that some row has a value for."""
    return [column for column in columns(groups) if any(spread(group, column.place)[2] for group in groups)]


def main_column(groups: Sequence[Group]) -> Column | None:
    """Return the first figure of validation that the rows have: the one that they are compared by."""
    return next((column for column in shown_columns(groups) if column.place[0] == "valid"), None)


def table_rows(groups: Sequence[Group], baseline: str | None = None) -> list[list[str]]:
    """Return the table of one task as text, headings first, without columns that no run has a value for.

    `baseline` names a row: the others get the paired difference to it. Raises ConfigError if several rows have it.
    """
    found, remarks = shown_columns(groups), [notes(group) for group in groups]
    compared = {} if baseline is None else differences(groups, baseline)
    middles = middle_means(groups)
    main = main_column(groups)
    more = [f"{main.name} IQM"] if main and any(middles) else []
    more += [f"{main.name} - {baseline} [95 %]"] if main and compared else []
    last = ["seeds", *(["notes"] if any(remarks) else [])]
    place = found.index(main) + 1 if main else 0  # beside the figure that they are about
    names = [each.name for each in found]
    rows = [[*(groups[0].values if groups else []), "n", *names[:place], *more, *names[place:], *last]]
    for number, (group, remark) in enumerate(zip(groups, remarks, strict=True)):
        cells = [_cell(*spread(group, each.place), len(group.runs), each.form) for each in found]
        if main and compared:
            cells.insert(place, difference_text(compared.get(number), main.form))
        if main and any(middles):
            middle = middles[number]
            cells.insert(place, "-" if middle is None else main.form.format(middle))
        rows.append([*group.values.values(), str(len(group.runs)), *cells, group.seeds, remark][: len(rows[0])])
    return rows


def differences(groups: Sequence[Group], baseline: str) -> dict[int, Difference]:
    """Return the paired differences of the main figure by the number of the row; empty if no row is the baseline."""
    other, main = find_baseline(groups, baseline), main_column(groups)
    if other is None or main is None:
        return {}
    found = {n: paired_difference(each, other, main.place) for n, each in enumerate(groups) if each is not other}
    return {number: each for number, each in found.items() if each is not None}


def middle_means(groups: Sequence[Group]) -> list[float | None]:
    """Return the interquartile mean of the main figure for every row that has enough runs."""
    main = main_column(groups)
    if main is None:
        return [None for _ in groups]
    return [
        interquartile_mean([v for run in group.runs if (v := value(run.summary, main.place)) is not None])
        for group in groups
    ]


def difference_text(found: Difference | None, form: str) -> str:
    """Return `+0.123 [+0.100, +0.150]`, with the number of pairs where there is no interval; `-` without a pair."""
    if found is None:
        return "-"
    signed = form.replace(":", ":+")
    text = signed.format(found.mean)
    if found.low is None or found.high is None:
        return f"{text} (pairs: {found.pairs})"
    return f"{text} [{signed.format(found.low)}, {signed.format(found.high)}]"


def _cell(mean: float | None, deviation: float | None, n: int, runs: int, form: str) -> str:
    if mean is None:
        return "-"
    text = form.format(mean) + (f" ± {form.format(deviation)}" if deviation is not None else "")
    return text if n == runs else f"{text} (n={n})"
