"""`openllm keys add NAME`: a new key, printed once, and its digest in the key file."""

from __future__ import annotations

import click

from openllm.access import key_file, keys
from openllm.cli.command import Command, Session
from openllm.cli.keys import facts_of, file_of, file_option
from openllm.cli.output import Output, output_option

POSITIVE = click.IntRange(min=1)


@click.command("keys add", cls=Command)
@click.argument("name")
@click.option(
    "--model", "models", metavar="NAME", multiple=True, help="Name in `model` it may use; repeatable; default: all."
)
@click.option("--requests-per-minute", metavar="N", type=POSITIVE, help="Requests to the model; default: no limit.")
@click.option(
    "--tokens-per-minute", metavar="N", type=POSITIVE, help="Tokens of prompts and answers; default: no limit."
)
@click.option("--concurrency", metavar="N", type=POSITIVE, help="Requests at once; default: no limit.")
@click.option("--background", is_flag=True, help="Its requests wait behind those of other keys.")
@file_option
@output_option
@click.pass_obj
def command(
    session: Session,
    name: str,
    models: tuple[str, ...],
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrency: int | None,
    background: bool,
    api_key_file: str | None,
    output: str,
) -> None:
    """Make a key called NAME and print it. It is printed this once: the file keeps its SHA-256 alone.

    The file is made if it is not there. A server that runs with it takes the key within a second.
    """
    path, text = file_of(api_key_file), keys.new_key()
    try:
        key_file.check_name(name)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    key = keys.Key(
        name=name,
        sha256=keys.digest_of(text.encode()).hex(),
        created=keys.now(),
        models=list(dict.fromkeys(models)) or None,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        priority="background" if background else "interactive",
    )
    with key_file.editing(path) as content:
        if content.find(name) is not None:
            raise click.UsageError(f"{path} has a key {name!r} already; `openllm keys rotate {name}` replaces it.")
        content.put(key)
    out = Output(output, session)
    if output == "json":
        out.json({"key": text, "path": str(path)} | facts_of(key))
        return
    out.data(text)
    out.say(f"Keep it: {path} has its hash alone, and nothing shows it again.", dim=True)
