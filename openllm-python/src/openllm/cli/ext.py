"""`openllm extension NAME`, or `openllm ext NAME`: the small utilities, which run as `openllm NAME` too.

Called through the command table, whose section "Extensions" says what they are. Knows none of them.
"""

from __future__ import annotations

from typing import Any

import click

from openllm.cli import COMMANDS, EXTENSIONS, load
from openllm.cli.command import apply_globals, global_options, normalise, section_heading

NAME = "extension"


class Extensions(click.Group):
    """The commands of one section of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the table."""
        return [name for name, (_, _, section) in COMMANDS.items() if section == EXTENSIONS and name != NAME]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for what is no extension."""
        return load(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Their names with the lines of the table, then the options."""
        names = self.list_commands(ctx)
        width = max(map(len, names)) + 2
        with formatter.section(section_heading(EXTENSIONS)):
            formatter.write_dl([(name.ljust(width - 2), COMMANDS[name][1]) for name in names])
        click.Command.format_options(self, ctx, formatter)


@click.group(
    NAME,
    cls=Extensions,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normalise},
)
@global_options
@click.pass_context
def command(ctx: click.Context, **given: Any) -> None:
    """Run a small utility. Each is a command of its own too: `openllm list-bentos` is `openllm extension list-bentos`."""
    apply_globals(ctx, given)
