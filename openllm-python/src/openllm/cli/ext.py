"""`openllm extension NAME`, or `openllm ext NAME`: the small utilities, which run as `openllm NAME` too.

Called through the command table, whose section "Extensions" says what they are. Knows none of them.
"""

from __future__ import annotations

import click

from openllm.cli import COMMANDS, EXTENSIONS, load
from openllm.cli.command import normalise, section_heading

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
        """Their names, with the lines of the table."""
        names = self.list_commands(ctx)
        with formatter.section(section_heading(EXTENSIONS)):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in names])


command = Extensions(
    NAME,
    help="Run a small utility. Each is a command of its own too: `openllm list-bentos` is `openllm extension list-bentos`.",
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normalise},
    no_args_is_help=True,
)
