"""Pages refer to pages, headings, files, tests and classes that exist; the site has every page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PROSE = [page for page in PAGES if page.name != "CONTRIBUTING.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
#: The name of a project file in the pages. Names with a capital, `K` or `<...>` are patterns.
SOURCE = re.compile(r"`((?:dni|workers|benchmarks|tests|conf|proto|docs)/[\w/.-]+)`")
TEST = re.compile(r"`(test_\w+)`")
CLASS = re.compile(r"`((?:[A-Z][a-z]+)+)(?:\.(\w+))?(?:\([^`]*\))?`")


def read(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def sources() -> str:
    """Return all source code that pages can refer to."""
    return "\n".join(
        file.read_text(encoding="utf-8") for top in ("dni", "workers") for file in ROOT.glob(f"{top}/**/*.py")
    )


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"
        inside = file.is_relative_to(DOCS) or not page.is_relative_to(DOCS)
        assert inside, f"{page.name}: {target} is not part of the site"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_and_tests_exist(page: Path) -> None:
    tests = {file.stem for file in ROOT.glob("tests/**/test_*.py")}
    text = read(page)
    assert [name for name in SOURCE.findall(text) if not (ROOT / name).exists()] == []
    assert [name for name in TEST.findall(text) if name not in tests] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_classes_exist(page: Path) -> None:
    """Members named with a class must exist as well."""
    others = {"StatefulSet", "KillWait"}
    for name, member in CLASS.findall(read(page)):
        if name not in others:
            assert re.search(rf"^class {name}\b", sources(), re.M), f"{page.name}: {name}"
            assert not member or re.search(rf"\b{member}\b", sources()), f"{page.name}: {name}.{member}"


def test_the_site_has_every_page_once() -> None:
    def listed(entry: object) -> list[str]:
        inside = entry if isinstance(entry, list) else list(entry.values()) if isinstance(entry, dict) else None
        return [str(entry)] if inside is None else [page for each in inside for page in listed(each)]

    pages = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(pages) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PROSE, ids=[str(page.relative_to(ROOT)) for page in PROSE])
def test_lines_of_prose_are_at_most_100_columns_long(page: Path) -> None:
    text = re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", "", read(page), flags=re.S)
    assert [line for line in text.splitlines() if len(line) > 100 and not line.startswith(("|", "!["))] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
