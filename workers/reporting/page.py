"""Write the report as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

STYLE = """
:root { color-scheme: light dark; --line: #8886; --quiet: light-dark(#555, #aaa); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 0 auto; padding: 1rem;
       background: light-dark(#fff, #16181c); color: light-dark(#1a1a1a, #e8e8e8); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
th { vertical-align: bottom; } td { white-space: nowrap; }
.figures { display: grid; gap: 1.5rem;
           grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; max-width: 46rem; }
img { width: 100%; background: #fff; border-radius: .4rem; }
figcaption, ul { color: var(--quiet); font-size: .9rem; } li { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Section:
    """One task: table rows with the headings first, lines of text, and captions with PNG bytes."""

    title: str
    rows: list[list[str]]
    lines: list[str] = field(default_factory=list)
    pictures: list[tuple[str, bytes]] = field(default_factory=list)


def page(sections: Sequence[Section], runs: Sequence[str], others: Sequence[str]) -> str:
    """Return the HTML page. `runs` are those in the tables, `others` those that are not, with reasons."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training report</title><style>{STYLE}</style></head><body>
<h1>Training report</h1>
<p>Runs in the tables: {len(runs)}. Values: mean ± standard deviation over n runs.</p>
{"".join(map(_section_html, sections))}
{_list_html("Not in the tables", others)}
{_list_html("Runs", runs)}
</body></html>
"""


def _section_html(section: Section) -> str:
    figures = "".join(
        f'<figure><img alt="{caption}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
        for caption, png in section.pictures
    )
    return f"""<h2>{html.escape(section.title)}</h2>
<div class="wide"><table>{_table_html(section.rows)}</table></div>
{"".join(f"<p>{html.escape(line)}</p>" for line in section.lines)}
<div class="figures">{figures}</div>
"""


def _table_html(rows: list[list[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in body)
    return f"<tr><th>{'</th><th>'.join(head)}</th></tr>{lines}"


def _list_html(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""
