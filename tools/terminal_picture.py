#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["pexpect", "pyte"]
# ///
"""Draw a picture of a real terminal session: `python tools/terminal_picture.py [-o docs/images/terminal.svg]`.

Types the commands of SESSION on a real terminal, waits for what they print, and writes what stood on the screen as an
SVG without outside fonts or links. Needs `pip install pexpect pyte`, an installed `openllm`, and curl. Nothing is made up:
the picture shows what the commands printed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pexpect
import pyte

ROOT = Path(__file__).resolve().parent.parent
ROWS = 300  # more than any session prints: nothing scrolls away
PROMPT = "$ "
QUESTION = "What is 2 + 2?"
TALK = ["What is the capital of France?", "Write a haiku about the sea."]

BACKGROUND, FOREGROUND, DIM = "#15191f", "#d7dce2", "#8a94a0"
COLOURS = {
    "default": FOREGROUND,
    "black": "#3b4250",
    "red": "#e5747c",
    "green": "#8fc98a",
    "brown": "#e2c08d",
    "blue": "#79aef0",
    "magenta": "#c499e8",
    "cyan": "#6cc7d1",
    "white": FOREGROUND,
}
CELL_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN = 8.4, 19, 14, 22
FONTS = "ui-monospace, 'SF Mono', 'Cascadia Mono', 'JetBrains Mono', 'DejaVu Sans Mono', Menlo, Consolas, monospace"


@dataclass
class Step:
    """Something typed, and what must appear before the next thing is.

    Attributes:
        keys: what is typed; Enter follows.
        until: regular expression for what the screen shows from there on.
        limit_s: seconds to wait for it.
    """

    keys: str
    until: str
    limit_s: float = 300


@dataclass
class Shell:
    """One terminal. Shells stand below one another in the picture, in the order they are opened.

    Attributes:
        steps: what is typed; the last command may still run when the picture is taken.
        keep: first and last lines to show, the rest becomes one "…"; None keeps all.
    """

    steps: list[Step]
    keep: tuple[int, int] | None = None


@dataclass
class Run:
    """Characters of one style."""

    text: str
    colour: str
    bold: bool
    column: int


def session(port: int, model: str, start: str) -> list[Shell]:
    """The README's session: start, a streamed answer by curl, a chat."""
    messages = f'[{{"role": "user", "content": "{QUESTION}"}}]'
    body = f'{{"model": "{model}",\n  "messages": {messages}, "temperature": 0, "stream": true}}'
    base = f"http://127.0.0.1:{port}"
    curl = [
        f"curl -sN {base}/v1/chat/completions \\",
        "-H 'Content-Type: application/json' \\",
        f"-d '{body}' |",
        "grep -o '\"delta\":{[^}]*}'",
    ]
    chat = "openllm chat" + ("" if port == 3000 else f" --endpoint {base}") + " --sampling-params temperature=0"
    done = r"first after.*\s+\S*› $"
    return [
        Shell([Step(start, r"Stop +Ctrl-C")]),
        Shell([Step("\n".join(curl), r"\n\$ $")], keep=(10, 2)),
        Shell([Step(chat, r"› $"), *(Step(line, done) for line in TALK), Step("/exit", r"\n\$ $")]),
    ]


class Terminal:
    """A shell on a pseudo-terminal, and the screen a person would see."""

    def __init__(self, columns: int) -> None:
        self.screen = DimScreen(columns, ROWS)
        self.stream = pyte.Stream(self.screen)
        environ = os.environ | {"TERM": "xterm-256color", "PS1": PROMPT, "PS2": "  ", "HISTFILE": "/dev/null"}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        environ.pop("NO_COLOR", None)
        self.child = pexpect.spawn(
            "/bin/bash", ["--norc", "--noprofile"], env=environ, dimensions=(50, columns), encoding="utf-8", cwd=ROOT
        )
        self.child.logfile_read = self
        self._expect(re.escape(PROMPT), 20)

    def write(self, text: str) -> None:
        """pexpect hands over everything the terminal printed."""
        self.stream.feed(text)

    def flush(self) -> None:
        """Part of a file's protocol; nothing is buffered here."""

    def _expect(self, pattern: str, limit_s: float) -> None:
        """Wait until the screen's text, colours aside, ends in or holds the pattern."""
        deadline = time.monotonic() + limit_s
        while not re.search(pattern, self.text()):
            if time.monotonic() > deadline:
                sys.exit(f"waited {limit_s:g} s for {pattern!r}; the screen shows:\n{self.text()}")
            if self.child.expect([r".+", pexpect.TIMEOUT, pexpect.EOF], timeout=0.2) == 2:
                sys.exit(f"the shell ended while {pattern!r} was awaited:\n{self.text()}")

    def text(self) -> str:
        """What the screen shows up to the cursor, whose line keeps its blanks."""
        row = self.screen.cursor.y
        lines = [line.rstrip() for line in self.screen.display[:row]]
        return "\n".join([*lines, self.screen.display[row][: self.screen.cursor.x]])

    def do(self, step: Step) -> None:
        """Type and wait."""
        before = len(self.text())
        self.child.send(step.keys + "\n")
        time.sleep(0.3)
        deadline = time.monotonic() + step.limit_s
        while not re.search(step.until, self.text()[before + len(step.keys) :]):
            if time.monotonic() > deadline:
                sys.exit(f"waited {step.limit_s:g} s for {step.until!r}; the screen shows:\n{self.text()}")
            self.child.expect([r".+", pexpect.TIMEOUT, pexpect.EOF], timeout=0.2)

    def lines(self) -> list[list[Run]]:
        """The screen's lines as runs of one style, without empty ones and the waiting prompt at the end."""
        found = [self._runs(row) for row in range(ROWS)]
        while found and "".join(run.text for run in found[-1]).strip() in ("", PROMPT.strip()):
            found.pop()
        return found

    def _runs(self, row: int) -> list[Run]:
        runs: list[Run] = []
        for column in range(self.screen.columns):
            cell = self.screen.buffer[row][column]
            colour = COLOURS.get(cell.fg, f"#{cell.fg}" if re.fullmatch("[0-9a-f]{6}", cell.fg) else FOREGROUND)
            if runs and (runs[-1].colour, runs[-1].bold) == (colour, cell.bold):
                runs[-1].text += cell.data
            else:
                runs.append(Run(cell.data, colour, cell.bold, column))
        while runs and not runs[-1].text.strip():
            runs.pop()
        return runs

    def close(self) -> None:
        """Ctrl-C, wait for the command to end well, leave the shell."""
        self.child.sendintr()
        self.child.expect([re.escape(PROMPT), pexpect.TIMEOUT], timeout=30)
        self.child.close(force=True)


class DimScreen(pyte.Screen):
    """pyte knows no dim text (SGR 2): it is kept as a colour of its own."""

    def select_graphic_rendition(self, *attributes: int, **kwargs: object) -> None:
        """Take SGR 2 as a colour; everything else is pyte's."""
        others = [attribute for attribute in attributes if attribute != 2]
        if others or not attributes:
            super().select_graphic_rendition(*others, **kwargs)
        if 2 in attributes:
            self.cursor.attrs = self.cursor.attrs._replace(fg=DIM.removeprefix("#"))


def shortened(lines: list[list[Run]], keep: tuple[int, int] | None) -> list[list[Run]]:
    """First and last lines with one "…" between them."""
    if keep is None or len(lines) <= sum(keep) + 1:
        return lines
    return [*lines[: keep[0]], [Run("…", DIM, False, 0)], *lines[-keep[1] :]]


def as_svg(shells: list[list[list[Run]]], columns: int) -> str:
    """One window with the shells below one another, a thin line between them."""
    rows = sum(len(lines) + 1 for lines in shells) - 1
    width, height = columns * CELL_WIDTH + 2 * MARGIN, rows * LINE_HEIGHT + 2 * MARGIN + 18
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        'aria-label="A terminal session: openllm start, a streamed answer by curl, and openllm chat">',
        f'<rect width="100%" height="100%" rx="10" fill="{BACKGROUND}"/>',
        *(f'<circle cx="{MARGIN + 4 + 18 * i}" cy="20" r="5" fill="#3b4250"/>' for i in range(3)),
        f'<g font-family="{FONTS}" font-size="{FONT_SIZE}" xml:space="preserve">',
    ]
    y = MARGIN + 18.0 + FONT_SIZE
    for index, lines in enumerate(shells):
        if index:
            parts.append(
                f'<line x1="{MARGIN}" x2="{width - MARGIN:.0f}" y1="{y - FONT_SIZE / 2:.1f}" y2="{y - FONT_SIZE / 2:.1f}" '
                'stroke="#2b323c"/>'
            )
            y += LINE_HEIGHT
        for line in lines:
            parts.extend(_svg_run(run, y) for run in line if run.text.strip())
            y += LINE_HEIGHT
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _svg_run(run: Run, y: float) -> str:
    text = run.text.rstrip()
    lead = len(text) - len(text.lstrip())
    text = text.lstrip()
    weight = ' font-weight="600"' if run.bold else ""
    x = MARGIN + (run.column + lead) * CELL_WIDTH
    length = f' textLength="{len(text) * CELL_WIDTH:.1f}" lengthAdjust="spacing"'
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{run.colour}"{weight}{length}>{escape(text)}</text>'


def main() -> None:
    """Run the session, write the picture."""
    parser = argparse.ArgumentParser(description="Draw a picture of a real terminal session.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images" / "terminal.svg")
    parser.add_argument("--columns", type=int, default=104)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument(
        "--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="name the server serves it under"
    )
    parser.add_argument("--start", default="openllm start", help="what is typed to start the server")
    arguments = parser.parse_args()
    open_shells: list[Terminal] = []
    pictures: list[list[list[Run]]] = []
    try:
        for shell in session(arguments.port, arguments.model, arguments.start):
            terminal = Terminal(arguments.columns)
            open_shells.append(terminal)
            for step in shell.steps:
                terminal.do(step)
            pictures.append(shortened(terminal.lines(), shell.keep))
    finally:
        for terminal in reversed(open_shells):
            terminal.close()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(as_svg(pictures, arguments.columns), encoding="utf-8")
    print(arguments.output)


if __name__ == "__main__":
    main()
