"""`openllm dive-bentos BENTO`: what lies in a Bento, file by file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.list_bentos import sizes
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text


@click.command("dive-bentos", cls=Command)
@click.argument("bento", shell_complete=complete.bento)
@click.option("--machine", is_flag=True, hidden=True)
@output_option
@click.pass_obj
def command(session: Session, bento: str, machine: bool, output: str) -> None:
    """List every file of BENTO, `name:version`, with size and date; its folder is the first line.

    With -o porcelain, the paths alone.
    """
    from openllm.bundle import bentos

    found = bentos.get(bento, read_settings().store)
    if not found.ours:
        raise click.BadParameter(f"{found.tag} was not built by `openllm build`.", param_hint="BENTO")
    out = Output(output, session)
    if machine:
        out.data(str(found.path))
        return
    files = sorted(path for path in found.path.rglob("*") if path.is_file())
    if output == "json":
        listed = [{"path": relative(path, found.path), **sizes(path.lstat().st_size)} for path in files]
        out.json({"tag": found.tag, "path": str(found.path), "files": listed})
    elif output == "porcelain":
        for path in files:
            out.data(str(path))
    else:
        out.data(str(found.path))
        rows = [
            (
                relative(p, found.path),
                size_text(p.lstat().st_size),
                f"{datetime.fromtimestamp(p.lstat().st_mtime):%F %R}",
            )
            for p in files
        ]
        out.table(("File", "Size", "Written"), rows, numbers=(1,))


def relative(path: Path, root: Path) -> str:
    """A path as it stands in the Bento."""
    return path.relative_to(root).as_posix()
