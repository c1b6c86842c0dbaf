"""What a command prints and where: data on stdout, talk on stderr, progress bars on a terminal only.

Every command makes one `Output`. Knows terminals, colours and rich; knows nothing of models or HTTP. rich is imported
when the first table or bar is drawn.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from openllm.cli.command import Session, colours
from openllm.cli.wrap import WordWrap

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["pretty", "json", "porcelain"]
PIPE_WIDTH = 10_000  # columns where nobody looks
WIDE, NARROW = 150, 108  # columns below which a table leaves out what is least asked for
FACT_WIDTH = 15
Bar = Callable[[str, float | None, float | None], None]
"""Called with (what is being done, amount done, amount in all); None where unknown."""


def _output_option(default: Format) -> Callable[[F], F]:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["pretty", "json", "porcelain"]),
        default=default,
        envvar="OPENLLM_OUTPUT",
        show_envvar=True,
        show_default=True,
        help="For people, as JSON, or bare words for scripts.",
    )


output_option = _output_option("pretty")
data_output_option = _output_option("json")
"""For commands whose answer is data in the first place."""


class Output:
    """Where the words of one command go.

    Args:
        format: what stdout carries.
        session: `quiet` silences all talk.
    """

    def __init__(self, format: str, session: Session) -> None:
        self.format = format
        self.quiet = session.quiet
        self.pretty = format == "pretty"
        self.log: logging.Logger | None = None  # takes the talk where stderr is JSON

    @property
    def width(self) -> int:
        """Columns of stdout."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH

    # -- data -----------------------------------------------------------------------------------------------------

    def data(self, text: str, *, newline: bool = True) -> None:
        """Text on stdout."""
        click.echo(text, nl=newline)

    def stream(self, pieces: Iterable[str]) -> None:
        """Text on stdout as it comes, then a line end. On a terminal words stay whole and control characters are out."""
        terminal = sys.stdout.isatty()
        wrap = WordWrap(shutil.get_terminal_size().columns) if can_move(sys.stdout) else None
        last = ""
        for piece in pieces:
            shown = printable(piece) if terminal else piece
            self.data(wrap.feed(shown) if wrap else shown, newline=False)
            last = piece
        if not (terminal and last.endswith("\n")):
            self.data("")

    def json(self, value: Any) -> None:
        """A value on stdout, indented by 2."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))

    def table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        numbers: Sequence[int] = (),
        folds: int | None = None,
    ) -> None:
        """A table on stdout; the columns named in `numbers` stand to the right, the first one is accented.

        Where it is too wide, cells are folded: those of the column `folds` alone, else all but the first column's.
        Through a pipe each row is one line, however long.
        """
        console = self.console(sys.stdout)
        with console.capture() as captured:
            console.print(make_table(headers, rows, numbers=numbers, folds=folds))
        for line in captured.get().splitlines():
            click.echo(line.rstrip())

    # -- talk -----------------------------------------------------------------------------------------------------

    def say(self, text: str = "", *, newline: bool = True, **style: Any) -> None:
        """A line of talk on stderr; nothing when quiet."""
        if self.log is not None:
            if text.strip():
                self.log.info("%s", text.strip())
        elif not self.quiet:
            click.echo(paint(text, sys.stderr, **style), err=True, nl=newline)

    def fact(self, name: str, value: str, note: str = "") -> None:
        """One aligned line of talk: a dim name, the value, and a dim remark; the remark goes below where it is long."""
        if self.log is not None:
            self.log.info("%s: %s", name, f"{value} ({note})" if note else value)
            return
        if self.quiet:
            return
        columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else PIPE_WIDTH
        lines = [paint(f"{name:<{FACT_WIDTH}}", sys.stderr, dim=True) + value]
        if note and FACT_WIDTH + len(value) + 2 + len(note) <= columns:
            lines[0] += "  " + paint(note, sys.stderr, dim=True)
        elif note:
            indent = " " * FACT_WIDTH
            lines += [
                indent + paint(part, sys.stderr, dim=True) for part in wrap(note, max(columns - FACT_WIDTH, FACT_WIDTH))
            ]
        click.echo("\n".join(lines), err=True)

    @contextmanager
    def progress(self) -> Generator[Bar]:
        """Show a bar on stderr while the block runs: on a terminal it moves; elsewhere each new step is one line."""
        if self.quiet:
            yield lambda text, done, total: None
        elif self.log is not None or not can_move(sys.stderr):
            yield _step_lines(self.say)
        else:
            with _moving_bar(self.console(sys.stderr)) as bar:
                yield bar

    def console(self, stream: Any) -> Console:
        """A rich console on a stream: plain where colour is not allowed, wide where there is no terminal."""
        from rich.console import Console
        from rich.theme import Theme

        theme = Theme({"progress.elapsed": "dim", "bar.back": "dim"})
        bright = colours(stream)
        width = None if stream.isatty() else PIPE_WIDTH
        return Console(
            file=stream, no_color=not bright, force_terminal=bright, highlight=False, width=width, theme=theme
        )


def can_move(stream: Any) -> bool:
    """Whether a bar may move on a stream: a terminal that is not dumb. Without colour it moves too."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, stream: Any, **style: Any) -> str:
    """Style a text when the stream takes colour."""
    return click.style(text, **style) if style and colours(stream) else text


def make_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[int] = (), folds: int | None = None
) -> Table:
    """A quiet table: bold heads over one thin rule, no frame. Arguments as `Output.table`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", border_style="dim", show_edge=False)
    for index, header in enumerate(headers):
        table.add_column(
            header,
            justify="right" if index in numbers else "left",
            style="cyan" if index == 0 else None,
            overflow="fold",
            no_wrap=(index == 0 or index in numbers) if folds is None else index != folds,
        )
    for row in rows:
        table.add_row(*(cell if not isinstance(cell, (int, float)) else str(cell) for cell in row))
    return table


def two_lines(first: str, second: str) -> Text:
    """A table's cell: a text, and a dim one below it."""
    from rich.text import Text

    return Text.assemble(first, "\n", (second, "default dim"))


def _step_lines(say: Callable[..., None]) -> Bar:
    """Progress without a terminal: one line when a step begins, none for its shares."""
    seen = ""

    def show(text: str, done: float | None, total: float | None) -> None:
        nonlocal seen
        if text and text != seen:
            seen = text
            say(f"{sentence(text)} …")

    return show


@contextmanager
def _moving_bar(console: Console) -> Generator[Bar]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(style="cyan"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
        TextColumn("{task.fields[amount]}", style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=10) as progress:
        task = progress.add_task("", total=None, amount="")
        current = ""

        def show(text: str, done: float | None, total: float | None) -> None:
            nonlocal current
            if text != current:
                current = text
                progress.reset(task, description=sentence(text), total=total)
            progress.update(task, completed=done or 0, total=total, amount=amount_text(done, total))

        yield show


def amount_text(done: float | None, total: float | None) -> str:
    """`46 of 93 MB` for bytes, `40 %` for a share of 1, nothing where unknown."""
    if done is None:
        return ""
    if total is None:
        return size_text(done) if done else ""
    if total <= 1:
        return f"{done / total:.0%}".replace("%", " %") if total else ""
    return f"{size_text(done)} of {size_text(total)}"


def size_text(size: float) -> str:
    """Bytes in the unit people read: 269 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def printable(text: str) -> str:
    """Text for a terminal: control characters out, but for line ends and tabs, so that no answer can steer it."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def sentence(text: str) -> str:
    """A text with a capital first letter."""
    return text[:1].upper() + text[1:]
