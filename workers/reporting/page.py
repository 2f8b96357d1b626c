"""Write the report as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.reporting.charts import Chart, library

STYLE = """
:root { color-scheme: light dark; --line: #8886; --quiet: light-dark(#555, #aaa);
        --note: light-dark(#8a4b00, #f0b35c); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 0 auto; padding: 1rem;
       background: light-dark(#fff, #16181c); color: light-dark(#1a1a1a, #e8e8e8); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
th { vertical-align: bottom; } td { white-space: nowrap; }
.warning { color: var(--note); margin: .3rem 0; } .warning::before { content: "\\26A0\\FE0E  "; }
.figures { display: grid; gap: 1.5rem; margin-top: 1rem;
           grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; max-width: 46rem; } .figures > * { min-width: 0; }
img { width: 100%; background: #fff; border-radius: .4rem; }
figcaption, ul { color: var(--quiet); font-size: .9rem; } li { overflow-wrap: anywhere; }
pre { overflow-x: auto; background: light-dark(#f4f4f4, #22252b); padding: .6rem; border-radius: .4rem;
      font-size: .8rem; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; } summary { cursor: pointer; overflow-wrap: anywhere; }
"""

#: Draws every chart with the colours of the page, and again when the reader's system changes from light to dark.
DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)");
function look() {
  const ink = dark.matches ? "#e8e8e8" : "#1a1a1a", line = dark.matches ? "#3a3f47" : "#dddddd";
  const paper = dark.matches ? "#c2c7cf" : "#ffffff", look = {};  // plotly's pressed buttons are always light
  for (const axis of ["xaxis", "yaxis"])
    Object.assign(look, {[axis + ".gridcolor"]: line, [axis + ".zerolinecolor"]: line, [axis + ".linecolor"]: line});
  for (const menu of ["updatemenus[0]", "updatemenus[1]"])
    Object.assign(look, {[menu + ".bgcolor"]: paper, [menu + ".bordercolor"]: line});
  return Object.assign(look, {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font.color": ink});
}
const places = document.querySelectorAll(".chart");
places.forEach((place) => {
  const chart = JSON.parse(place.querySelector("script").textContent);
  const options = {responsive: true, displayModeBar: false};
  Plotly.newPlot(place.querySelector("div"), chart.data, chart.layout, options).then(restyle);
});
function restyle(drawn) {
  const own = Object.entries(look()).filter(([key]) => !key.startsWith("updatemenus") || drawn.layout.updatemenus);
  Plotly.relayout(drawn, Object.fromEntries(own));
}
dark.addEventListener("change", () => places.forEach((place) => restyle(place.querySelector("div"))));
"""


@dataclass(frozen=True)
class RunText:
    """A run as the page shows it."""

    title: str
    command: str | None  #: repeats it; None: its record does not say enough
    settings: str  #: as YAML; empty without a record


@dataclass(frozen=True)
class Section:
    """One task: table rows with the headings first, warnings, captions with PNG bytes, charts, and its runs."""

    title: str
    rows: list[list[str]]
    lines: list[str] = field(default_factory=list)
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    runs: list[RunText] = field(default_factory=list)


def page(sections: Sequence[Section], others: Sequence[str]) -> str:
    """Return the HTML page. `others` are the runs that are in no table, with reasons.

    With plotly installed its charts are interactive, and its library is in the page; else they are pictures.
    """
    script = library() if any(section.charts for section in sections) else None
    runs = sum(len(section.runs) for section in sections)
    drawn = f"<script>{script}</script>\n<script>{DRAW}</script>" if script else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training report</title><style>{STYLE}</style></head><body>
<h1>Training report</h1>
<p>Runs in the tables: {runs}. Values: mean ± standard deviation over n runs.</p>
{"".join(_section_html(section, interactive=script is not None) for section in sections)}
{_list_html("Not in the tables", others)}
{drawn}
</body></html>
"""


def _section_html(section: Section, *, interactive: bool) -> str:
    return f"""<h2>{html.escape(section.title)}</h2>
<div class="wide"><table>{_table_html(section.rows)}</table></div>
{"".join(f'<p class="warning">{html.escape(line)}</p>' for line in section.lines)}
<div class="figures">{_charts_html(section.charts) if interactive else _pictures_html(section.pictures)}</div>
<h3>Runs</h3>
{"".join(map(_run_html, section.runs))}
"""


def _charts_html(charts: Sequence[Chart]) -> str:
    return "".join(
        f'<div class="chart"><div></div><script type="application/json">{_json(chart)}</script></div>\n'
        for chart in charts
    )


def _json(chart: Chart) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    return json.dumps(chart, separators=(",", ":")).replace("<", "\\u003c")


def _pictures_html(pictures: Sequence[tuple[str, bytes]]) -> str:
    return "".join(
        f'<figure><img alt="{caption}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
        for caption, png in pictures
    )


def _run_html(run: RunText) -> str:
    command = f'<p>Repeat it:</p><pre class="command">{html.escape(run.command)}</pre>' if run.command else ""
    settings = f"<p>Settings:</p><pre>{html.escape(run.settings)}</pre>" if run.settings else ""
    return f"<details><summary>{html.escape(run.title)}</summary>{command}{settings}</details>\n"


def _table_html(rows: list[list[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in body)
    return f"<tr><th>{'</th><th>'.join(head)}</th></tr>{lines}"


def _list_html(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""
