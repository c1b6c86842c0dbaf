"""Will it fit, and what would: sums over a `MemoryEstimate`, and the one refusal that names need, have and a way out.

Called by every backend before it loads and by the checks of a start. Knows no framework; bytes in, bytes and tokens out.
"""

from __future__ import annotations

import msgspec

from openllm_core.errors import OutOfMemory

from .base import MemoryEstimate

MIN_USEFUL_TOKENS = 8


def full_cache_bytes(found: MemoryEstimate) -> int:
    """Cache of every slot filled to the whole context."""
    return found.bytes_per_token * found.context_tokens * found.slots


def cache_room_bytes(found: MemoryEstimate) -> int | None:
    """What is left for the cache beside weights and work; never negative, None where the machine does not say."""
    if found.have_bytes is None:
        return None
    return max(0, found.have_bytes - (found.need_bytes - found.parts.get("cache", 0)))


def largest_context(found: MemoryEstimate, slots: int = 1) -> int | None:
    """Tokens that so many sequences may each have at once, at most the model's; None where it cannot be told."""
    room = cache_room_bytes(found)
    if room is None or not found.bytes_per_token:
        return None
    fits = room // (found.bytes_per_token * max(1, slots))
    return min(fits, found.context_tokens) if found.context_tokens else fits


def largest_slots(found: MemoryEstimate) -> int | None:
    """Sequences that fit when each fills the whole context; None where it cannot be told."""
    room = cache_room_bytes(found)
    each = found.bytes_per_token * found.context_tokens
    return None if room is None or not each else room // each


def times(found: MemoryEstimate, engines: int) -> MemoryEstimate:
    """The same for several engines on one device."""
    return msgspec.structs.replace(
        found,
        need_bytes=found.need_bytes * engines,
        parts={name: size * engines for name, size in found.parts.items()},
        bytes_per_token=found.bytes_per_token * engines,
    )


def refuse_too_large(found: MemoryEstimate, what: str) -> None:
    """Refuse what will not fit, naming need, have, and the largest context that would fit.

    Args:
        what: the model, for the message.

    Raises:
        OutOfMemory: it will not.
    """
    if found.fits:
        return
    parts = ", ".join(f"{name} {size:,}" for name, size in found.parts.items())
    context = largest_context(found) or 0
    if context >= MIN_USEFUL_TOKENS:
        would = f" A context of {context:,} tokens would fit."
        hint = f"--max-model-len {context}, or free memory."
    else:
        would = " No context would fit beside the weights."
        hint = "Free memory, choose a smaller model, or a smaller --dtype."
    raise OutOfMemory(
        f"{what} needs about {found.need_bytes:,} bytes on {found.device} ({parts}); {found.have_bytes:,} are free.{would}",
        hint=hint,
    )
