"""`openllm adapters rm NAME`: an adapter out of the store, and with --endpoint out of a running server first."""

from __future__ import annotations

import click

from openllm.cli import complete
from openllm.cli.adapters import server_options, tell
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option
from openllm_core.errors import NotFound


@click.command("adapters rm", cls=Command)
@click.argument("name", shell_complete=complete.adapter)
@server_options
@output_option
@click.pass_obj
def command(session: Session, name: str, endpoint: str | None, admin_key: str | None, output: str) -> None:
    """Delete the stored adapter NAME. With --endpoint the server unloads it first; without, one that has it goes on."""
    from openllm.serialisation.adapters import AdapterStore

    store = AdapterStore(read_settings().store)
    if endpoint is not None:
        try:
            tell(endpoint, admin_key, "unload", name)
        except NotFound as error:
            if error.wire_code != "adapter_not_found":
                raise  # what is not loaded need not be unloaded
    store.remove(name)
    out = Output(output, session)
    if output == "json":
        out.json({"name": name})
    else:
        out.data(name if output == "porcelain" else f"{name} deleted from the store.")
