"""Every snippet of the documentation runs, in the order a reader meets it, against a server the page itself started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.docs.snippets import Snippet, snippets_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
PAGES += sorted(ROOT.glob("openllm-*/README.md")) + sorted((ROOT / "examples").rglob("*.md"))
SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]


def name_of(snippet: Snippet) -> str:
    return f"{snippet.page.relative_to(ROOT).as_posix()}:{snippet.line}"


@pytest.mark.timeout(480)
@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.verb in ("run", "serve", "chat")], ids=name_of)
def test_snippet_runs(page_run: dict[Path, Any], snippet: Snippet):
    """Done as the page says, it ends well."""
    page_run[snippet.page].follow(snippet)


def test_every_snippet_runs_or_says_why_not():
    """A block without a comment before it is a block nobody tries."""
    assert [name_of(s) for s in SNIPPETS if not s.verb] == []
    assert [name_of(s) for s in SNIPPETS if s.verb == "not run" and not s.detail] == []


def test_the_tutorial_runs_in_full():
    """In the tutorial nothing is shown that is not run."""
    tutorial = [s for s in SNIPPETS if s.page.name == "tutorial.md"]
    assert len(tutorial) > 8
    assert [name_of(s) for s in tutorial if s.verb == "not run"] == []


def test_the_reader_of_pages(tmp_path: Path):
    """Comments, languages and indentation are read as the pages mean them; other languages are left alone."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run: prints 2 -->\n```python\nprint(2)\n```\n\n```json\n{}\n```\n\n"
        "1. <!-- not a verb -->\n   ```bash\n   ls\n   ```\n<!-- not run: takes long -->\n```sh\nsleep 9\n```\n",
        encoding="utf-8",
    )
    first, second, third = snippets_of(page)
    assert (first.verb, first.detail, first.code, first.line) == ("run", "prints 2", "print(2)\n", 2)
    assert (second.verb, second.code) == ("", "ls\n")
    assert (third.verb, third.detail) == ("not run", "takes long")
