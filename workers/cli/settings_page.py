"""Generate docs/settings.md from the schema: `python -m workers.cli.settings_page [--check]`.

It has the content of `dni-train --explain`. `--check` writes nothing and exits with code 1 if the page is not current.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from workers.cli.explain import Setting, settings
from workers.cli.help import default, options, set_by, written

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
WIDTH = 100
HEADS = "| setting | default | values | meaning |\n| --- | --- | --- | --- |"
INTRODUCTION = """# Settings

This page is made from the settings' schema by `make tables`. `dni-train --explain NAME` prints the
same for one setting or section. Type settings as `NAME=VALUE` after `dni-train`. Brackets hold the
unit of a number. A group's options, such as `optimizer=adamw`, set several of its settings at once.
`dni-train --cfg job` prints the values that a command would run with.
"""


def page() -> str:
    """The page as Markdown: one section for each section of settings, one row for each setting."""
    return "\n".join([INTRODUCTION, *_section("", "The run", "Settings outside any section.")])


def _section(name: str, title: str, meaning: str) -> Iterator[str]:
    """Yield a heading, the options of the group if it is one, the settings, then the inner sections."""
    start = f"{name}." if name else ""
    inside = [s for s in settings().values() if s.name.startswith(start) and "." not in s.name.removeprefix(start)]
    yield from [f"## {title}", "", *_wrapped(_sentence(meaning)), ""]
    found = [f"- `{option}`{f': {meaning}' if meaning else ''}" for option, meaning in options(name).items()]
    yield from (line for item in found for line in _wrapped(item, indent="  "))
    yield from [""] if found else ()
    rows = [_row(setting) for setting in inside if not setting.is_section]
    yield from [HEADS, *rows, ""] if rows else ()
    for setting in inside:
        if setting.is_section:
            yield from _section(setting.name, f"`{setting.name}`", setting.meaning)


def _row(setting: Setting) -> str:
    """Return a setting's row; `|` in a cell is escaped."""
    unit = f"[{setting.unit}] " if setting.unit else ""
    by = ", ".join(f"`{option}` ({written(value)})" for option, value in set_by(setting.name))
    only = f". Only with {', '.join(f'`{option}`' for option in setting.options)}" if setting.options else ""
    cells = [f"`{setting.name}`", f"`{written(default(setting))}`", setting.values.replace(" | ", ", "),
             f"{unit}{setting.meaning}{only}{f'. Set by {by}' if by else ''}"]  # fmt: skip
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def main() -> int:
    """Write the page, or compare it with `--check`."""
    made = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
