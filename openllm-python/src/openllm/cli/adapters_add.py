"""`openllm adapters add PATH_OR_ID[:NAME]`: an adapter into the store, and with --endpoint into a running server."""

from __future__ import annotations

from pathlib import Path

import click

from openllm.cli.adapters import server_options, tell
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text


@click.command("adapters add", cls=Command)
@click.argument("adapter", metavar="PATH_OR_ID[:NAME]")
@server_options
@output_option
@click.pass_obj
def command(session: Session, adapter: str, endpoint: str | None, admin_key: str | None, output: str) -> None:
    """Store a LoRA adapter under a name; without NAME under that of its folder.

    It must be one that PEFT saved, with adapter_model.safetensors. `--adapter-id NAME` then finds it. With --endpoint the
    server (started with --max-adapters and --allow-adapter-load) loads it, or puts it in place of the one it has under the
    name; it also has it after its next start. Where the server refuses it, the store stays as it was.
    """
    from openllm.backends import adapter as adapters
    from openllm.serialisation.adapters import AdapterStore, split

    store = AdapterStore(read_settings().store)
    source, name = split(adapter)
    folder, how = store.folder_of(source)
    found = adapters.read(folder)
    name = name or Path(source.rstrip("/")).name
    with store.adding(name, folder, str(folder) if how == "folder" else source) as entry:
        if endpoint is not None:
            tell(endpoint, admin_key, "load", entry.name)
    out = Output(output, session)
    if output == "json":
        facts = {"name": entry.name, "path": str(entry.path), "size_bytes": entry.size_bytes}
        out.json(facts | {"rank": found.rank, "base": found.base, "served": endpoint is not None})
    elif output == "porcelain":
        out.data(entry.name)
    else:
        out.data(f"{entry.name}  {size_text(entry.size_bytes)}  rank {found.rank}  {entry.path}")
        out.say(f"Served by {endpoint}." if endpoint else f"Serve it: --adapter-id {entry.name}", dim=True)
