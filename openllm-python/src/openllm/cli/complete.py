"""What a shell offers for the arguments of commands: stored models, adapters, backends, families. Used as `shell_complete`.

Asked at each TAB, so it reads folders and no more: no network, no framework. Hub ids rather than tags are offered, which
every shell takes as one word (bash cuts words at a colon).
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from openllm.cli.command import normalise, second_words
from openllm_core.errors import OpenLLMError


def family(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of families, and the second words of a command that may stand in their place."""
    from openllm_core.families import registry

    names = [CompletionItem(spec.name) for spec in registry.all() if spec.name.startswith(normalise(incomplete))]
    return [*names, *second_words(ctx, incomplete)]


def stored_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the stored models."""
    from openllm.cli.options import read_settings
    from openllm.serialisation import list_models

    try:
        entries = list_models(read_settings().store)
    except (OpenLLMError, OSError):  # a store that cannot be read is told by the command, not by TAB
        return []
    return _matching({entry.model_id: entry.family or "" for entry in entries}.items(), incomplete)


def model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whatever `start` takes: families and stored models, else files."""
    found = [*family(ctx, param, incomplete), *stored_model(ctx, param, incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def known_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Families and stored models, for commands that look at what is here."""
    return [*family(ctx, param, incomplete), *stored_model(ctx, param, incomplete)]


def adapter(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the stored adapters, else files."""
    from openllm.cli.options import read_settings
    from openllm.serialisation.adapters import AdapterStore

    try:
        entries = AdapterStore(read_settings().store).entries()
    except (OpenLLMError, OSError):
        entries = []
    return _matching(((entry.name, "") for entry in entries), incomplete) or [CompletionItem(incomplete, type="file")]


def backend(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names that --backend takes here."""
    from openllm.backends.registry import names

    return _matching(((name, "") for name in ["auto", *names()]), incomplete)


def bento(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tags of the Bentos that `openllm build` made; without its version a tag means the newest."""
    from openllm.bundle import bentos
    from openllm.cli.options import read_settings

    try:
        found = [b for b in bentos.find_all(read_settings().store) if b.ours]
    except (OpenLLMError, OSError):
        return []
    return _matching(((item.tag.partition(":")[0], "") for item in found), incomplete)


def _matching(pairs: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    """Items for the (word, remark) pairs that begin so, in any case; each word once."""
    start = incomplete.lower()
    unique = {word: remark for word, remark in pairs if word.lower().startswith(start)}
    return [CompletionItem(word, help=remark or None) for word, remark in sorted(unique.items())]
