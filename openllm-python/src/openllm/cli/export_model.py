"""`openllm export TAG [FILE]`: a stored model as one archive, for a machine without network."""

from __future__ import annotations

from pathlib import Path

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text


@click.command("export", cls=Command)
@click.argument("tag", shell_complete=complete.stored_model)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@output_option
@click.pass_obj
def command(session: Session, tag: str, file: Path | None, output: str) -> None:
    """Write the stored model TAG into FILE, a .tar.gz; without FILE into the working directory, named by the tag.

    `openllm import FILE` on another machine brings it into the store there; `bentoml models import FILE` reads it too.
    """
    from openllm.serialisation import export, get

    store = read_settings().store
    out = Output(output, session)
    entry = get(tag, store)
    with out.progress() as progress:
        written = export(entry, file or Path(), progress)
    size = written.stat().st_size
    if output == "json":
        out.json({"tag": entry.tag, "path": str(written), "size_bytes": size})
    elif output == "porcelain":
        out.data(str(written))
    else:
        out.data(f"{entry.tag}  {size_text(size)}  {written}")
