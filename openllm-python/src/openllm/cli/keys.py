"""`openllm keys ls`: the keys of a key file, by name; never a key itself, which only its owner has.

Also what `keys add`, `keys rm` and `keys rotate` share: which file is meant, and how a key's limits are told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from openllm.access import key_file
from openllm.access.keys import Key
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings, setting_options
from openllm.cli.output import Output, output_option
from openllm_core.options import ServerOptions

F = TypeVar("F", bound=Callable[..., Any])


def file_option(function: F) -> F:
    """Add --api-key-file, the same that `openllm start` has."""
    return setting_options(ServerOptions, only=("api_key_file",))(function)


def file_of(typed: str | None) -> Path:
    """The key file that is meant: typed, else that of the variable.

    Raises:
        click.UsageError: neither says.
    """
    found = read_settings({"api_key_file": typed}).server.api_key_file
    if not found:
        raise click.UsageError("Which key file? Give --api-key-file PATH, or set OPENLLM_API_KEY_FILE.")
    return Path(found).expanduser()


def known(content: key_file.KeyFile, name: str, path: Path) -> Key:
    """The key of a name.

    Raises:
        click.UsageError: there is none.
    """
    key = content.find(name)
    if key is None:
        names = ", ".join(one.name for one in content.keys[:12])
        raise click.UsageError(f"{path} has no key {name!r}; it has {names or 'none'}.")
    return key


def facts_of(key: Key) -> dict[str, Any]:
    """A key as data, without its digests."""
    return {
        "name": key.name,
        "created": key.created,
        "models": key.models,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "concurrency": key.concurrency,
        "priority": key.priority,
        "old_until": key.old_until,
    }


@click.command("keys ls", cls=Command)
@file_option
@output_option
@click.pass_obj
def command(session: Session, api_key_file: str | None, output: str) -> None:
    """List the keys of a key file: names, limits and models. The keys themselves are in no file."""
    path, out = file_of(api_key_file), Output(output, session)
    found = key_file.read(path).keys
    if output == "json":
        out.json([facts_of(key) for key in found])
    elif output == "porcelain":
        for key in found:
            out.data(key.name)
    elif not found:
        out.say(f"{path} has no keys. `openllm keys add NAME` makes one.", dim=True)
    else:
        heads = ("Name", "Created", "Requests/min", "Tokens/min", "At once", "Models", "Note")
        out.table(heads, [_row(key) for key in found], numbers=(2, 3, 4))


def _row(key: Key) -> tuple[str, ...]:
    limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrency)
    notes = ["background"] if key.priority == "background" else []
    if key.old_opens():
        notes.append(f"the one before opens until {key.old_until}")
    shown = ("–" if limit is None else f"{limit:,}" for limit in limits)
    models = "all" if key.models is None else ", ".join(key.models)
    return (key.name, key.created or "–", *shown, models, ", ".join(notes))
