#!/usr/bin/env python3
"""Put measured figures into the documentation: `python3 tools/figures.py` writes them, `--check` only compares.

A figure stands in Markdown between two comments, and only this program writes what is between them:

    <!-- figure: serving medians.openllm.32.tokens_per_s .0f -->607<!-- / -->
    <!-- figure: serving medians.openllm.32.tokens_per_s / medians.raw.32.tokens_per_s .2f -->1.23<!-- / -->

that is: the file `docs/figures/serving.json`, a path in it (or two, for their ratio) and a format, with `*1000` behind it to
scale. The rows below a table's head come from a list of objects, a column from each of their keys that is named:

    <!-- rows: faults rows id title echo pt -->
    | | fault | echo | pt |
    |---|---|---|---|
    | F01 | A client leaves mid-stream | 20 of 20 | 5 of 5 |
    <!-- / -->

What no file holds yet is written as "not measured", never guessed. A path that a file which is there does not hold is an
error, unless a `?` stands behind the file's name: some are filled piece by piece. No line of a paragraph or table begins with a
comment: Markdown would end it there.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURE = re.compile(r"<!-- figure: (?P<file>[\w-]+\??) (?P<what>[^>]+?) -->(?P<text>.*?)<!-- / -->", re.S)
ROWS = re.compile(
    r"(?P<begin><!-- rows: (?P<file>[\w-]+) (?P<path>\S+) (?P<columns>[^>]+?) -->\n\|[^\n]*\|\n\|[-:| ]+\|\n)"
    r"(?P<text>.*?)<!-- / -->",
    re.S,
)
ABSENT = "not measured"


class BadFigure(Exception):
    """A figure comment that cannot be read, or a path that a file which is there does not hold."""


def pages(root: Path) -> list[Path]:
    """Every Markdown page that may hold figures."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def value_at(data: Any, path: str) -> Any:
    """The value at a dotted path; a number as a step is a key of an object or an index of a list."""
    for step in path.split("."):
        try:
            data = data[int(step)] if isinstance(data, list) else data[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise BadFigure(f"nothing stands at {path!r} (looked for {step!r})") from None
    return data


def holds(data: Any, path: str) -> bool:
    """Whether something stands at a dotted path."""
    try:
        value_at(data, path)
    except BadFigure:
        return False
    return True


def render(folder: Path, file: str, what: str) -> str:
    """Text of one figure.

    Args:
        folder: where the JSON files are.
        file: name of one, without `.json`; with `?` where it may lack the path.
        what: `PATH FORMAT`, `PATH / PATH FORMAT`, or `PATH` alone for text.
    """
    source = folder / f"{file.removesuffix('?')}.json"
    if not source.exists():
        return ABSENT
    data = json.loads(source.read_text(encoding="utf-8"))
    words = what.split()
    if file.endswith("?") and not holds(data, words[0]):
        return ABSENT
    if len(words) == 1:
        return str(value_at(data, words[0]))
    form, _, scale = words[-1].partition("*")
    number = value_at(data, words[0])
    if len(words) == 4 and words[1] == "/":
        number = number / value_at(data, words[2])
    elif len(words) != 2:
        raise BadFigure(f"{what!r} is none of PATH, PATH FORMAT, PATH / PATH FORMAT")
    return format(number * float(scale) if scale else number, form)


def render_rows(folder: Path, file: str, path: str, columns: list[str]) -> str:
    """Lines of a table: one for each object of the list at `path`, a cell for each of `columns`."""
    source = folder / f"{file}.json"
    if not source.exists():
        return "| " + " | ".join([ABSENT, *[""] * (len(columns) - 1)]) + " |\n"
    found = value_at(json.loads(source.read_text(encoding="utf-8")), path)
    lines = [[str(value_at(row, column)).replace("|", "\\|") for column in columns] for row in found]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def fill(text: str, folder: Path) -> str:
    """A page with every figure and every table as its file has it."""

    def one(found: re.Match[str]) -> str:
        shown = render(folder, found["file"], found["what"])
        return f"<!-- figure: {found['file']} {found['what']} -->{shown}<!-- / -->"

    def table(found: re.Match[str]) -> str:
        shown = render_rows(folder, found["file"], found["path"], found["columns"].split())
        return f"{found['begin']}{shown}<!-- / -->"

    return ROWS.sub(table, FIGURE.sub(one, text))


def main(argv: list[str], root: Path = ROOT) -> int:
    """Write, or with --check say which pages differ; 1 when one does or a figure is unreadable."""
    check, bad = "--check" in argv, 0
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        try:
            filled = fill(text, root / "docs" / "figures")
        except BadFigure as error:
            print(f"{page.relative_to(root)}: {error}", file=sys.stderr)
            bad += 1
            continue
        if filled == text:
            continue
        if check:
            print(f"{page.relative_to(root)}: differs from docs/figures; run python3 tools/figures.py", file=sys.stderr)
            bad += 1
        else:
            page.write_text(filled, encoding="utf-8")
            print(f"{page.relative_to(root)}: written", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
