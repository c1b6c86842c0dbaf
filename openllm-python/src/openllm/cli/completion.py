"""`openllm completion SHELL`: the script that makes a shell complete commands, options, models and adapters.

The script asks `openllm` itself at each TAB, by click's protocol, so it need not be written again when commands change.
"""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from openllm.cli.command import Command

VARIABLE = "_OPENLLM_COMPLETE"
SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion", cls=Command)
@click.argument("shell", required=False, type=click.Choice([*SHELLS]))
@click.pass_context
def command(ctx: click.Context, shell: str | None) -> None:
    """Print the script that completes `openllm` at TAB: commands, options, and the models and adapters of this machine.

    \b
      bash   eval "$(openllm completion bash)"   in ~/.bashrc
      zsh    eval "$(openllm completion zsh)"    in ~/.zshrc, below compinit
      fish   openllm completion fish > ~/.config/fish/completions/openllm.fish

    Without SHELL it is the one that $SHELL names.
    """
    name = shell or PurePath(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(f"SHELL is missing: {', '.join(SHELLS)}.", ctx)
    click.echo(SHELLS[name](ctx.find_root().command, {}, "openllm", VARIABLE).source())
