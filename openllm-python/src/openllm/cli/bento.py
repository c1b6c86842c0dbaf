"""What to serve: MODEL, the model of a Bento or of a lock file, and the settings that come with it.

Called by `openllm start`, `doctor` and `lock` before anything is looked for. Reads the files of a Bento and of a lock only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from openllm.cli.options import Settings, read_settings
from openllm_core.options import StoreOptions
from openllm_core.settings import read

if TYPE_CHECKING:
    from openllm.serialisation.bento_record import BuiltBento


@attrs.frozen(kw_only=True)
class Wanted:
    """What to serve, and how.

    Attributes:
        model, model_id: as `openllm.serialisation.resolve` takes them.
        bento: whose settings they are; None where MODEL is none.
    """

    settings: Settings
    model: str | None
    model_id: str | None
    bento: BuiltBento | None = None


def wanted(
    typed: dict[str, Any],
    config: Path | None,
    fields: dict[str, Any],
    model: str | None,
    model_id: str | None,
    locked: Path | None = None,
) -> Wanted:
    """Read the settings, those of a lock and of a Bento below what was typed, the environment and the configuration file.

    A Bento brings its own model: `--model-id` is then ignored, which is said.

    Args:
        locked: a file of `openllm lock`; it names the model where nothing else does.

    Raises:
        OpenLLMError: a value does not fit, or the Bento or the lock is damaged.
    """
    lock = None
    if locked is not None:
        from openllm import locking

        lock = locking.read(locked)
    settings = read_settings(typed, config, fields, lock=lock)
    model, model_id = model or settings.model, model_id or settings.model_id
    if lock is not None and model is None and model_id is None:
        model = lock.model
    bento = find(model, model_id, settings.store)
    if bento is None:
        return Wanted(settings=settings, model=model, model_id=model_id)
    if model_id is not None:
        click.echo(f"Warning: --model-id {model_id} is ignored: the Bento {bento.tag} has its own model.", err=True)
    settings = read_settings(typed, config, fields, bento=bento, lock=lock)
    store = attrs.evolve(settings.store, bento_path=str(bento.path))
    settings = attrs.evolve(settings, store=store)
    return Wanted(settings=settings, model=bento.record.family, model_id=bento.record.model, bento=bento)


def find(model: str | None, model_id: str | None, options: StoreOptions) -> BuiltBento | None:
    """The Bento that is meant; without any word, the one this process runs in."""
    from openllm.serialisation import bento_record

    if model is None and model_id is not None:
        return None
    return bento_record.find(options, model)


def named_in(words: list[str]) -> BuiltBento | None:
    """The Bento among the words of a command line, for its help page; None where there is none, or a damaged one."""
    from openllm.serialisation import bento_record
    from openllm_core.errors import OpenLLMError

    options = read(StoreOptions).options
    for word in words:
        try:
            found = bento_record.find(options, word) if word[:1] != "-" else None
        except OpenLLMError:
            continue
        if found is not None:
            return found
    return None
