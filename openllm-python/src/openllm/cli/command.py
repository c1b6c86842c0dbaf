"""What every command shares: global options, grouped help, one spelling of names, and the session they end up in.

Used by each command module of this package. Imports nothing heavy: `openllm --help` goes through here.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

GLOBAL = "Global options"
SECOND_WORDS = "openllm.second-words"  # key of click's ctx.meta: word -> help, where a command of two words was begun
TERM_WIDTH = 30  # columns that flags may take before their help starts on a new line


class Session:
    """How this run of the program talks, as the global options say.

    Attributes:
        quiet: nothing on stderr but errors.
        debug: tracebacks and debug logs.
        context: name of the BentoCloud context for commands that push.
        report: says why the program ends, with what mends it, where that is no text for people.
        closing: called when all is said.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.debug = False
        self.context: str | None = None
        self.report: Callable[[str, str | None], None] | None = None
        self.closing: list[Callable[[], None]] = []


def normalise(token: str) -> str:
    """`model_id` and `model-id` are one word, for options, commands and names of families."""
    return token.replace("_", "-")


def colours(stream: Any) -> bool:
    """Whether colour may be written to a stream: a terminal that is not dumb, and no NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def section_heading(text: str) -> str:
    """A heading of a help page, bold where colour is allowed."""
    return click.style(text, bold=True) if colours(sys.stdout) else text


class GroupedOption(click.Option):
    """An option that belongs to a named section of the help page."""

    def __init__(
        self, *args: Any, group: str = "Options", bare: str | None = None, takes: str = "", **kwargs: Any
    ) -> None:
        """Args:
        bare: what the flag stands for where no value follows it.
        takes: only a word with this in it is taken for such a value.
        """
        super().__init__(*args, **kwargs)
        self.group = group
        self.bare = bare
        self.takes = takes

    def spelled_out(self, words: list[str]) -> list[str]:
        """The words of a command line with each value of this option written behind a `=`, its absence too."""
        flag, found = self.opts[0], list[str]()
        while words:
            word, *words = words
            if word == "--":
                return [*found, word, *words]
            if word == "--no-" + flag[2:]:
                found.append(f"{flag}=off")
            elif word != flag:
                found.append(word)
            elif not (words and self.takes in words[0] and words[0][:1] != "-"):
                found.append(f"{flag}={self.bare}")
            while word == flag and words and self.takes in words[0] and words[0][:1] != "-":
                value, *words = words
                found.append(f"{flag}={value}")
        return found


def global_options(function: F) -> F:
    """Add the options that every command takes."""
    for declaration, facts in reversed(_GLOBALS):
        function = click.option(*declaration, cls=GroupedOption, group=GLOBAL, **facts)(function)
    return function


_GLOBALS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-q", "--quiet"),
        {"is_flag": True, "default": None, "help": "Say nothing but errors.", "envvar": "BENTOML_QUIET"},
    ),
    (
        ("--debug", "--verbose", "debug"),
        {"is_flag": True, "default": None, "help": "Show tracebacks and debug logs.", "envvar": "BENTOML_DEBUG"},
    ),
    (
        ("--do-not-track",),
        {
            "is_flag": True,
            "help": "Accepted for old scripts; nothing is ever tracked.",
            "envvar": "OPENLLM_DO_NOT_TRACK",
        },
    ),
    (
        ("--context",),
        {
            "default": None,
            "metavar": "NAME",
            "help": "BentoCloud context, for commands that push.",
            "envvar": "BENTOCLOUD_CONTEXT",
        },
    ),
]
_GLOBAL_NAMES = ("quiet", "debug", "do_not_track", "context")


def apply_globals(ctx: click.Context, given: dict[str, Any]) -> Session:
    """Take the global options out of a command's arguments and into the session; a later place wins.

    Quiet beats debug, with a warning.
    """
    session = ctx.find_object(Session)
    if session is None:
        session = ctx.obj = Session()
    values = {name: given.pop(name, None) for name in _GLOBAL_NAMES}
    session.quiet = session.quiet if values["quiet"] is None else bool(values["quiet"])
    session.debug = session.debug if values["debug"] is None else bool(values["debug"])
    session.context = values["context"] or session.context
    if session.quiet and session.debug:
        click.echo("Warning: --quiet and --debug were both given; --quiet wins.", err=True)
        session.debug = False
    return session


def second_words(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What a shell offers after the first word of commands of two words."""
    words: dict[str, str] = ctx.meta.get(SECOND_WORDS, {})
    return [CompletionItem(word, help=line) for word, line in words.items() if word.startswith(incomplete)]


class Command(click.Command):
    """A command with sections in its help page and the global options at its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

        def nothing() -> None: ...

        added = cast("list[click.Parameter]", getattr(global_options(nothing), "__click_params__", []))
        self.params.extend(reversed(added))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say for options whose value may be left out whether a word is one."""
        for param in self.params:
            if isinstance(param, GroupedOption) and param.bare is not None:
                args = param.spelled_out(args)
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """-h and --help, worded alike everywhere."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "Show this page."
        return option

    def invoke(self, ctx: click.Context) -> Any:
        """Apply the global options, set up logging, run."""
        session = apply_globals(ctx, ctx.params)
        from openllm.cli import logs  # a help page needs no logging

        ctx.call_on_close(logs.show(session))
        return super().invoke(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options and values; the second words of commands that have some come first."""
        if any(isinstance(param, click.Argument) for param in self.params):  # which offers them itself
            return super().shell_complete(ctx, incomplete)
        return [*second_words(ctx, incomplete), *super().shell_complete(ctx, incomplete)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options by section, in the order the sections first appear; global ones last."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                term, text = record
                text = text.replace("[env var: ", "[env: ")  # as `setting_options` words it
                sections.setdefault(getattr(param, "group", "Options"), []).append((term, text))
        sections[GLOBAL] = sections.pop(GLOBAL, [])
        width = min(TERM_WIDTH, max((len(term) for rows in sections.values() for term, _ in rows), default=0))
        for title, rows in sections.items():
            if rows:
                with formatter.section(section_heading(title)):
                    formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=TERM_WIDTH)


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Callback of --version: two lines, then the end."""
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"openllm, {version('openllm')} (compiled: no)")
    click.echo(f"Python ({platform.python_implementation()}) {platform.python_version()}")
    ctx.exit()
