"""The check behind `openllm start --locked`: what is here against what the lock says, one red line per difference.

Called by `start` and `doctor`, which make it beside the checks of `openllm.doctor`. Costs nothing without a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from openllm.cli.generation import configure
from openllm.cli.options import Settings
from openllm_core.errors import ConfigError

if TYPE_CHECKING:
    from openllm.doctor import Check, Finding, Situation
    from openllm.locking import Lock
    from openllm.serialisation import ResolvedModel
    from openllm.serialisation.store import Progress

CODE = "lock_mismatch"


def lock_checks(settings: Settings) -> tuple[Check, ...]:
    """The one check, where there is a lock."""
    if settings.lock is None:
        return ()
    lock = settings.lock

    def locked(situation: Situation) -> Iterable[Finding]:
        return _compare(lock, settings, situation)

    return (locked,)


def _compare(lock: Lock, settings: Settings, situation: Situation) -> Iterator[Finding]:
    from openllm.doctor.finding import Finding, red
    from openllm.locking import differences

    if situation.resolved is None:
        yield Finding("lock", "note", "the model is not on this machine yet; a start fetches and compares it")
        return
    here = observed(settings, situation.resolved, situation.model_id or situation.model)
    found = list(differences(lock, here))
    for text, mend in found:
        yield red("lock", ConfigError(text, hint=mend, code=CODE))
    if found:
        count = "One thing differs" if len(found) == 1 else f"{len(found)} things differ"
        hint = "Mend what differs, or write the lock anew with `openllm lock` if it is meant."
        yield red("lock", ConfigError(f"{count} from the lock; nothing is started.", hint=hint, code=CODE))
    else:
        what = f"{len(here.files)} files, {len(here.packages)} packages, every flag"
        yield Finding("lock", "ok", f"nothing differs: {what}")


def observed(settings: Settings, resolved: ResolvedModel, text: str | None, progress: Progress | None = None) -> Lock:
    """The lock of a start with these settings, as this machine is now.

    Args:
        text: what named the model.

    Raises:
        OpenLLMError: a setting does not fit the model, or a file cannot be read.
    """
    from openllm.backends import registry
    from openllm.locking import observe

    backend, _ = registry.choose(resolved.engine(settings.engine), resolved.architecture)
    engine = attrs.evolve(settings.engine, backend=backend)
    config = configure(resolved.family, settings.fields, settings.file_fields)
    return observe(resolved, engine, settings.server, settings.store, config, text=text, progress=progress)
