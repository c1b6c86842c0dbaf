"""The `openllm` command: a table of commands that are imported only when used, and the way errors leave the program.

`main` is the console script. `openllm --help` is made from the table alone, so it imports no command, no HTTP library
and no framework. Each command is one module of this package with a click command named `command`.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from openllm.cli.command import (
    SECOND_WORDS,
    Session,
    apply_globals,
    global_options,
    normalise,
    print_version,
    section_heading,
)
from openllm.cli.failures import EXIT_CODES, exit_code_of

NO_BREAK = "\xa0"  # a blank at which no line is cut
SERVE, MODELS, LOOK, EXTENSIONS = "Serve and ask", "Models", "Look", "Extensions"

# name -> (module, one line for --help, section)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "start": ("openllm.cli.start", "Serve a model over HTTP until stopped.", SERVE),
    "start-grpc": ("openllm.cli.start_grpc", "Serve a model over gRPC until stopped.", SERVE),
    "run": ("openllm.cli.run", "Serve a model and chat with it here.", SERVE),
    "chat": ("openllm.cli.chat", "Chat with a running server.", SERVE),
    "query": ("openllm.cli.query", "Ask a running server one question.", SERVE),
    "embed": ("openllm.cli.embed", "Make vectors of texts with a running server.", SERVE),
    "instruct": ("openllm.cli.instruct", "Have a running server's model do a task with tools.", SERVE),
    "keys add": ("openllm.cli.keys_add", "Make an API key, with limits of its own.", SERVE),
    "keys rm": ("openllm.cli.keys_rm", "Delete an API key.", SERVE),
    "keys rotate": ("openllm.cli.keys_rotate", "Replace an API key by a new one, with an overlap.", SERVE),
    "keys ls": ("openllm.cli.keys", "List the API keys of a key file.", SERVE),
    "models": ("openllm.cli.models", "List model families, and the models on this machine.", MODELS),
    "import": ("openllm.cli.import_model", "Fetch a model into the store without starting it.", MODELS),
    "build": ("openllm.cli.build", "Make a Bento: model and settings in one, to serve.", MODELS),
    "lock": ("openllm.cli.lock", "Write down what a start depends on, to repeat it.", MODELS),
    "export": ("openllm.cli.export_model", "Write a stored model into one file, to move it.", MODELS),
    "models verify": ("openllm.cli.models_verify", "Compare stored models with the hashes of their import.", MODELS),
    "adapters add": ("openllm.cli.adapters_add", "Store a LoRA adapter; with --endpoint serve it too.", MODELS),
    "adapters rm": ("openllm.cli.adapters_rm", "Delete a stored adapter.", MODELS),
    "adapters ls": ("openllm.cli.adapters", "List the stored adapters, or those a server has.", MODELS),
    "quantize": ("openllm.cli.quantize", "Make a GPTQ checkpoint: a quarter of the size.", MODELS),
    "prune": ("openllm.cli.prune", "Delete stored models.", MODELS),
    "finetune": ("openllm.cli.finetune", "Train an adapter for a model on a file of examples.", MODELS),
    "bench": ("openllm.cli.bench", "Measure a server under load, alone or beside a peer's.", LOOK),
    "doctor": ("openllm.cli.doctor", "Check whether a start would succeed, and why not.", LOOK),
    "ps": ("openllm.cli.ps", "List the servers that run here.", LOOK),
    "env": ("openllm.cli.env", "Show every setting, its value and where it came from.", LOOK),
    "completion": ("openllm.cli.completion", "Print the script for TAB completion in your shell.", LOOK),
    "build-base-container": (
        "openllm.cli.build_base_container",
        "Make the base images that Bentos are built on.",
        EXTENSIONS,
    ),
    "dive-bentos": ("openllm.cli.dive_bentos", "List the files of a Bento.", EXTENSIONS),
    "get-containerfile": ("openllm.cli.get_containerfile", "Print the Containerfile of a Bento.", EXTENSIONS),
    "get-prompt": (
        "openllm.cli.get_prompt",
        "Print the prompt that a model would get.",
        EXTENSIONS,
    ),
    "list-bentos": ("openllm.cli.list_bentos", "List the Bentos with tag, size and models.", EXTENSIONS),
    "list-models": ("openllm.cli.list_models", "List the stored models with tag and size.", EXTENSIONS),
    "playground": ("openllm.cli.playground", "Write notebooks to try things in; open Jupyter.", EXTENSIONS),
    "extension": ("openllm.cli.ext", "Run one of these by `openllm extension NAME`.", EXTENSIONS),
}
ALIASES = {
    "adapters": "adapters ls",
    "keys": "keys ls",
    "serve": "start",
    "start-http": "start",
    "download": "import",
    "download-models": "import",
    "pull": "import",
    "ls": "models",
    "rm": "prune",
    "quantise": "quantize",
    "ext": "extension",
}


def load(name: str) -> click.Command | None:
    """Import the module of a command; None when the table has no such name."""
    return import_module(COMMANDS[name][0]).command if name in COMMANDS else None


class CommandTable(click.Group):
    """A click group that knows its commands by the table above and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None when the table has no such name."""
        return load(ALIASES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a wrong name is answered with the near ones."""
        word = normalise(args[0])
        two = " ".join(map(normalise, args[:2]))
        if two in COMMANDS and len(args) > 1:
            return two, self.get_command(ctx, two), args[2:]
        ctx.meta[SECOND_WORDS] = {
            name.removeprefix(word + " "): line
            for name, (_, line, _) in COMMANDS.items()
            if name.startswith(word + " ")
        }
        if word not in COMMANDS and word not in ALIASES and not word.startswith("-"):
            near = get_close_matches(word, [*COMMANDS, *ALIASES], n=2, cutoff=0.7)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """First words of commands, by the table alone: no command is imported for a TAB."""
        begun, offered = normalise(incomplete), dict[str, str]()
        for name, (_, line, _) in COMMANDS.items():
            offered.setdefault(name.partition(" ")[0], line)
        offered |= {alias: f"the same as {name}" for alias, name in ALIASES.items() if begun and alias not in offered}
        words = [CompletionItem(name, help=line) for name, line in offered.items() if name.startswith(begun)]
        return [*words, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands first, then options."""
        self.format_commands(ctx, formatter)
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section(section_heading("Options")):
            formatter.write_dl([record for record in records if record is not None])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, by section."""
        width = max(map(len, COMMANDS)) + 2
        for section in (SERVE, MODELS, LOOK, EXTENSIONS):
            with formatter.section(section_heading(section)):
                rows = [(name.ljust(width - 2), line) for name, (_, line, of) in COMMANDS.items() if of == section]
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Other spellings and the exit codes."""
        spelled = ", ".join(f"{alias} = {name}".replace(" ", NO_BREAK) for alias, name in ALIASES.items())
        with formatter.section(section_heading("Other names")):
            for line in click.wrap_text(spelled, formatter.width - 2).split("\n"):
                formatter.write(f"  {line.replace(NO_BREAK, ' ')}\n")
        with formatter.section(section_heading("Exit codes")):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line. Errors become one line on stderr and the exit code the help page lists."""
        if not standalone_mode:
            return super().main(args, prog_name or "openllm", complete_var, False, **extra)
        session = extra.setdefault("obj", Session())
        try:
            result = super().main(args, prog_name or "openllm", complete_var, False, **extra)
            code = result if isinstance(result, int) else 0
        except Exception as error:  # the outermost frame: everything ends in a line and a number
            code = exit_code_of(error, session)
        finally:
            for close in session.closing:
                close()
        raise SystemExit(code)


@click.group(
    cls=CommandTable,
    name="openllm",
    invoke_without_command=True,
    add_help_option=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": normalise,
        "max_content_width": 120,
    },
)
@click.option(
    "-v",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Print the version.",
)
@global_options
@click.help_option("-h", "--help", help="Show this page, or a command's.")
@click.pass_context
def cli(ctx: click.Context, **given: Any) -> None:
    """From a model id to an endpoint your client already speaks.

    \b
      openllm start               serve the default model on http://127.0.0.1:3000
      openllm start ./my-model    serve a folder, a hub id or a family name
      openllm chat                talk to it
    """
    apply_globals(ctx, given)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the `openllm` script.

    Args:
        args: the command line without the program's name; default `sys.argv[1:]`.

    Returns:
        the exit code.
    """
    speak_utf8()
    try:
        cli.main(args, prog_name="openllm")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def speak_utf8() -> None:
    """Where the locale says ASCII, read and write UTF-8 all the same; nothing that cannot be written is fatal."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="replace")
