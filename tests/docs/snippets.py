"""Reads the fenced code blocks of a Markdown page, each with the comment before it that says how it is run.

    <!-- run -->                        run it; it must end well
    <!-- run: prints Paris -->          and "Paris" must stand in what it prints
    <!-- run: with --max-steps 2 -->   with these words behind its own
    <!-- serve -->                      a command that serves until stopped; what follows on the page talks to it
    <!-- chat: Hello! -->               a command that reads a terminal: type this, wait for an answer, leave
    <!-- recipe: prints Paris -->       run by tests/recipes, with packages of other projects and a scripted server
    <!-- recipe of ours: prints … -->   the same with our own packages
    <!-- example: prints Paris -->      run by tests/examples, in a copy of the page's folder; `server`: what they start
    <!-- not run: why -->               shown only; the reason is for the reader of the source

A block of Python or shell without such a comment is an error: every snippet runs, or says why not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUNNABLE = {"python", "bash", "sh", "console"}
VERBS = {"run", "serve", "chat", "recipe", "recipe of ours", "example", "not run"}
BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<how>[^>]*?) -->[ ]*\n)?^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Snippet:
    """One block.

    Attributes:
        verb: run, serve, chat or not run; empty when the page does not say.
        detail: what follows the verb.
        line: of the opening fence, counted from 1.
    """

    page: Path
    line: int
    language: str
    code: str
    verb: str
    detail: str


def snippets_of(page: Path) -> list[Snippet]:
    """Python and shell blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Snippet] = []
    for block in BLOCK.finditer(text):
        if block["language"] not in RUNNABLE:
            continue
        verb, _, detail = (block["how"] or "").partition(":")
        if verb.strip() not in VERBS:
            verb, detail = "", ""
        indent = len(block["indent"])
        code = "".join(line[indent:] for line in block["code"].splitlines(keepends=True))
        line = text[: block.start("language")].count("\n") + 1
        found.append(Snippet(page, line, block["language"], code, verb.strip(), detail.strip()))
    return found
