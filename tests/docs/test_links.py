"""Links inside the repository lead somewhere: files, folders and headings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        ".github/*.md",
        "changelog.d/README.md",
        "docs/**/*.md",
        "openllm-*/README.md",
        "examples/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
PATH_IN_TEXT = re.compile(r"`(?P<path>(?:openllm-(?:core|client|python)|tools|tests|docs|constraints)/[\w./-]+)`")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    found: list[str] = []
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in (match["target"] for match in LINK.finditer(text)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(target)
    found += [path for path in PATH_IN_TEXT.findall(text) if not (ROOT / path).exists()]
    return found


def test_no_link_is_broken():
    """Every relative link, anchor and path in backquotes exists."""
    assert {page.relative_to(ROOT).as_posix(): found for page in PAGES if (found := broken(page))} == {}


def test_a_broken_link_is_seen(tmp_path: Path):
    """The rule above can fail."""
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](nowhere.md) [b](#here) [c](#there) [d](https://example.org)\n", encoding="utf-8")
    assert broken(page) == ["nowhere.md", "#there"]
