"""Pages: no broken link, none forgotten by the site, and what is copied from the code is up to date."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "kubeflow" / "README.md", *SITE]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    """The page without its code, where brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page whose file or heading does not exist, or which leave the site."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        outside = page.is_relative_to(DOCS) and not target.is_relative_to(DOCS)
        if outside or not target.exists() or (parts.fragment and parts.fragment not in _anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_page_has_no_broken_link(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One *two*\n[a](#one-two) [b](#three) [c](no.md) [d](https://e.org) `[e](f)`\n```\n[g](h)\n```\n")
    assert broken_links(page) == ["#three", "no.md"]


# A model and a config that a page tells to write.
INVENTED = {"layers/models/deep.py", "kubeflow/compiled/NAME.yaml"}
FILE = re.compile(r"(?<![\w/.-])(?:schemas|layers|serving|components|pipeline|kubeflow|tests|benchmarks)/[\w/-]+\.\w+")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_file_that_a_page_names_exists(page):
    named = set(FILE.findall(page.read_text())) - INVENTED
    assert {name for name in named if not (ROOT / name).exists()} == set()


def _nav(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for each in (entry if isinstance(entry, list) else entry.values()) for page in _nav(each)]


def test_every_page_is_in_the_navigation_of_the_site_once():
    nav = _nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in SITE)


def test_every_room_with_a_face_is_in_the_api_pages():
    shown = {
        name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    }
    rooms = {
        ".".join(["mixrank", *stub.parent.relative_to(ROOT).parts])
        for storey in ("schemas", "layers", "serving", "components", "pipeline")
        for stub in (ROOT / storey).rglob("__init__.pyi")
    }
    # Its names are those of the rooms below it.
    assert shown == rooms - {"mixrank.layers"}


def test_the_page_of_commands_is_what_the_command_line_says():
    spec = importlib.util.spec_from_file_location("write_commands", DOCS / "write_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "refresh it: python docs/write_commands.py"


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
