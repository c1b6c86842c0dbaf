"""`openllm keys rotate NAME`: a new key in the place of the one that NAME has, which goes on for a while."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import attrs
import click

from openllm.access import key_file, keys
from openllm.cli.command import Command, Session
from openllm.cli.keys import facts_of, file_of, file_option, known
from openllm.cli.output import Output, output_option

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
MOST = timedelta(days=366)


def duration(ctx: click.Context, param: click.Parameter, text: str) -> timedelta:
    """`30m`, `24h`, `7d`; 0 is none.

    Raises:
        click.BadParameter: it is none of these.
    """
    if text == "0":
        return timedelta()
    if not re.fullmatch(r"[0-9]{1,8}[smhd]", text) or (found := timedelta(**{UNITS[text[-1]]: int(text[:-1])})) > MOST:
        raise click.BadParameter(f"{text[:40]!r} is no time such as 30m, 24h or 7d, of a year at most.")
    return found


@click.command("keys rotate", cls=Command)
@click.argument("name")
@click.option(
    "--overlap",
    metavar="TIME",
    default="24h",
    show_default=True,
    callback=duration,
    help="How long the key from before opens too: 30m, 24h, 7d; 0 ends it at once.",
)
@file_option
@output_option
@click.pass_obj
def command(session: Session, name: str, overlap: timedelta, api_key_file: str | None, output: str) -> None:
    """Make a new key for NAME and print it, this once. Name, limits and models stay, and so does what was used of them.

    Both keys open the server until the overlap is over. Where NAME has an older one still, that one ends now.
    """
    path, text = file_of(api_key_file), keys.new_key()
    with key_file.editing(path) as content:
        old = known(content, name, path)
        until = keys.utc(datetime.now(UTC) + overlap) if overlap else None
        key = attrs.evolve(
            old,
            sha256=keys.digest_of(text.encode()).hex(),
            created=keys.now(),
            old_sha256=old.sha256 if until else None,
            old_until=until,
        )
        content.put(key)
    out = Output(output, session)
    if output == "json":
        out.json({"key": text, "path": str(path)} | facts_of(key))
        return
    out.data(text)
    before = f"The key from before opens until {until}." if until else "The key from before opens nothing any more."
    out.say(f"{before} Keep the new one: nothing shows it again.", dim=True)
