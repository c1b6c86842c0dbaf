"""`openllm adapters ls`: the adapters of the store, or with --endpoint those that a running server serves.

Also what `adapters add` and `adapters rm` share: the options that name a server, and how it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text

F = TypeVar("F", bound=Callable[..., Any])


def server_options(function: F) -> F:
    """Add --endpoint and --admin-key."""
    function = click.option(
        "--admin-key",
        metavar="KEY",
        envvar="OPENLLM_ADMIN_KEY",
        show_envvar=True,
        help="The server's admin key, where it has keys.",
    )(function)
    return click.option(
        "--endpoint", metavar="URL", help="A running server that is meant as well; `localhost:3000` will do."
    )(function)


@click.command("adapters ls", cls=Command)
@server_options
@output_option
@click.pass_obj
def command(session: Session, endpoint: str | None, admin_key: str | None, output: str) -> None:
    """List the stored LoRA adapters; with --endpoint those that the server serves, and which is its default."""
    out = Output(output, session)
    rows = stored() if endpoint is None else _served(endpoint, admin_key)
    if output == "json":
        out.json(rows)
        return
    for row in rows:
        if output == "porcelain":
            out.data(str(row["name"]))
            continue
        facts = [
            str(row["name"]),
            size_text(row["size_bytes"]) if "size_bytes" in row else "",
            f"rank {row['rank']}" if row["rank"] else "",
            f"for {row['base']}" if row["base"] else "",
            row.get("state") or "",
            "default" if row.get("default") else "",
            row["error"] or "",
        ]
        out.data("  ".join(filter(None, facts)))
    if not rows:
        out.say("No adapters. `openllm adapters add PATH:NAME` stores one.", dim=True)


def stored() -> list[dict[str, Any]]:
    """The adapters of the store, by name; a damaged one says so in `error`."""
    from openllm.backends import adapter as adapters
    from openllm.serialisation.adapters import AdapterStore
    from openllm_core.errors import AdapterIncompatible

    rows: list[dict[str, Any]] = []
    for entry in AdapterStore(read_settings().store).entries():
        facts = {"name": entry.name, "path": str(entry.path), "size_bytes": entry.size_bytes, "source": entry.source}
        try:
            found = adapters.read(entry.path)
            rows.append(facts | {"rank": found.rank, "base": found.base, "error": None})
        except AdapterIncompatible as error:
            rows.append(facts | {"rank": None, "base": None, "error": error.message})
    return rows


def _served(endpoint: str, key: str | None) -> list[dict[str, Any]]:
    import attrs

    from openllm_client import HTTPClient

    with HTTPClient(endpoint, api_key=key) as client:
        return [attrs.asdict(card) for card in client.adapters().adapters]


def tell(endpoint: str, key: str | None, verb: str, name: str) -> None:
    """Have a running server load or unload a stored adapter; nothing but its name is sent.

    Raises:
        ConnectionFailed, StatusError: the server is not there, or refuses; the message is its own.
    """
    from openllm_client import HTTPClient

    with HTTPClient(endpoint, api_key=key) as client:
        if verb == "load":
            client.load_adapter(name)
        else:
            client.unload_adapter(name)
