"""The tables of a report as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from workers.reporting.aggregate import Group, spread
from workers.reporting.notes import notes
from workers.reporting.page import Section
from workers.reporting.table import columns, differences, middle_means

#: Signs that LaTeX reads as commands, and the arrows and the sign of a spread.
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$",
}  # fmt: skip


def as_markdown(sections: Sequence[Section], others: Sequence[str]) -> str:
    """Return the tables as Markdown, with their warnings, and `others` as a list."""
    lines: list[str] = []
    for section in sections:
        table = [section.rows[0], ["---"] * len(section.rows[0]), *section.rows[1:]]
        shown = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table]
        lines += [f"### {section.title}", "", *shown, "", *section.lines, *([""] if section.lines else [])]
    return "\n".join([*lines, *(f"- {line}" for line in others), ""])


def as_csv(tasks: Mapping[str, Sequence[Group]], baseline: str | None) -> str:
    """Return the tables of all tasks as one, with mean, standard deviation and number of values of every figure."""
    groups = [group for task in tasks.values() for group in task]
    found = columns(groups)
    names = [f"{each.name} {part}" for each in found for part in ("mean", "sd", "n")]
    keys = list(dict.fromkeys(key for group in groups for key in group.values))
    paired = ["difference", "difference low", "difference high", "pairs"] if baseline is not None else []
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow(["task", *keys, "n", *names, "main figure IQM", *paired, "seeds", "notes"])
    for task in tasks.values():
        compared, middles = {} if baseline is None else differences(task, baseline), middle_means(task)
        for number, group in enumerate(task):
            shown = [group.values.get(key, "") for key in keys]
            numbers = [number for each in found for number in spread(group, each.place)]
            one = compared.get(number)
            pair = [None] * len(paired) if one is None else [one.mean, one.low, one.high, one.pairs]
            rest = [middles[number], *pair, group.seeds, notes(group)]
            out.writerow([group.task, *shown, len(group.runs), *numbers, *rest])
    return text.getvalue()


def as_latex(sections: Sequence[Section]) -> str:
    r"""Return a `table` environment for every task; the document needs \usepackage{booktabs}."""
    return "\n".join(_latex_table(section) for section in sections)


def _latex_table(section: Section) -> str:
    head, *body = [[tex(cell) for cell in row] for row in section.rows]
    cells = zip(*section.rows[1:], strict=True)
    places = "".join("r" if all(cell[:1] in "-+0123456789" for cell in column) else "l" for column in cells)
    lines = [" & ".join(row) + r" \\" for row in body]
    caption = f"{tex(section.title)}. Mean $\\pm$ standard deviation over n runs."
    return "\n".join([
        r"\begin{table}", r"  \centering", rf"  \caption{{{caption}}}",
        rf"  \begin{{tabular}}{{{places}}}", r"    \toprule",
        f"    {' & '.join(head)} \\\\", r"    \midrule", *(f"    {line}" for line in lines), r"    \bottomrule",
        r"  \end{tabular}", r"\end{table}", *(f"% {line}" for line in section.lines), "",
    ])  # fmt: skip


def tex(text: str) -> str:
    """Return text with the signs that LaTeX reads as commands written out."""
    return re.sub("|".join(map(re.escape, _TEX)), lambda found: _TEX[found[0]], text)
