"""The documentation as a site: built without a warning, whole, from this host alone, and as the repository shows it."""

from __future__ import annotations

import importlib.util
import tomllib
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "use": "href"}
LOADED_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
COUNTED = {"h1", "h2", "h3", "h4", "table", "tr", "td", "li", "pre", "code", "img", "a", "strong", "em", "p"}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site_under_test", ROOT / "tools" / "docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; zensical, with warnings as errors, had nothing to say."""
    folder = tmp_path_factory.mktemp("site")
    assert SITE.build(folder) == 0
    return folder / "build" / "site"


class Tags(HTMLParser):
    """Every tag of a page, and how many of them its text holds: what the theme puts around it is left out."""

    def __init__(self, html: str, within: str | None = None) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.counted: Counter[str] = Counter()
        self._within = within
        self._inside = within is None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.all.append((tag, given))
        self._inside |= tag == self._within
        added = "headerlink" in (given.get("class") or "") or given.get("id") == "__skip"
        if self._inside and tag in COUNTED and not added:
            self.counted[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._inside = False


def html_of(site: Path, shown: PurePosixPath) -> str:
    folder = shown.parent if shown.name in ("index.md", "README.md") else shown.with_suffix("")
    return (site / folder / "index.html").read_text(encoding="utf-8")


def entries(nav: Any) -> Iterator[str]:
    """Paths of all pages below one entry of the navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from entries(entry)


def test_every_page_is_in_the_navigation_once(site: Path):
    """Whoever adds a page says where it stands; no entry leads to a page that is gone."""
    assert Counter(entries(CONFIG["nav"])) == Counter(shown.as_posix() for shown in SITE.pages().values())


def test_nothing_is_loaded_from_another_host(site: Path):
    """No font, script, style or picture comes from elsewhere, and nothing asks GitHub how popular the project is."""
    foreign: list[tuple[str, str]] = []
    for page in site.rglob("*.html"):
        for tag, given in Tags(page.read_text(encoding="utf-8")).all:
            asks = tag == "link" and set((given.get("rel") or "").split()) & LOADED_RELATIONS
            address = given.get("href" if asks else LOADED.get(tag, "")) or ""
            if address.startswith(("http:", "https:", "//")) or given.get("data-md-component") == "source":
                foreign.append((page.name, address))
    assert foreign == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles and [text for text in styles if "url(http" in text or "@import" in text] == []


@pytest.mark.parametrize("source", SITE.pages(), ids=str)
def test_a_page_is_what_the_repository_shows(site: Path, source: PurePosixPath):
    """As many headings, tables, cells, list items, code blocks and links by the rules of both: what one of them reads as
    something else looks broken there."""
    text = (ROOT / source).read_text(encoding="utf-8")
    there = Tags(MarkdownIt("commonmark").enable("table").render(text)).counted
    here = Tags(html_of(site, SITE.pages()[source]), within="article").counted
    assert {tag: (there[tag], here[tag]) for tag in COUNTED if there[tag] != here[tag]} == {}


def test_links_lead_to_pages_and_to_the_repository():
    """A page links pages of the site; what is no page is linked where the repository shows it; code is left as it is."""
    text = SITE.page_for_site(PurePosixPath("docs/architecture.md"))
    repository = CONFIG["extra"]["repository"]
    assert "](how-to/add-a-backend.md)" in text
    assert f"]({repository}/blob/main/openllm-python/src/openllm/compose.py)" in text
    assert f"]({repository}/tree/main/openllm-core/src/openllm_core/families/data)" in text
    assert "](../" not in text
    assert SITE.page_for_site(PurePosixPath("examples/quickstart/README.md")).count("```bash") == 2


def test_a_link_to_nothing_is_refused(tmp_path: Path):
    """By the page and the link, before anything is built; a comment or a code block holds no link."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "zensical.toml").write_text('[project.extra]\nrepository = "https://example.org/it"\n')
    page = tmp_path / "docs" / "index.md"
    page.write_text("# A\n\n<!-- [x](gone.md) -->\n```text\n[x](gone.md) <!-- kept -->\n```\n[b](index.md#a)\n")
    kept = SITE.page_for_site(PurePosixPath("docs/index.md"), tmp_path)
    assert kept == "# A\n\n```text\n[x](gone.md) <!-- kept -->\n```\n[b](index.md#a)\n"
    page.write_text("[a](../gone.py)\n")
    with pytest.raises(SITE.BadLink, match=r"docs/index\.md: nothing is at \.\./gone\.py"):
        SITE.page_for_site(PurePosixPath("docs/index.md"), tmp_path)


def test_another_word_is_answered_with_the_help(capsys: pytest.CaptureFixture[str]):
    """Of the two there are."""
    assert SITE.main(["deploy"]) == 2
    assert "docs-site serve" in capsys.readouterr().err
