"""Keys as they are kept: a name, a digest, and what whoever shows the key may do.

Read from a file by `key_file`, made of the environment's keys by `access`. A key's text is in memory only while it is made or
shown by a request.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import Literal

import attrs

from openllm_core.serde import field

PREFIX = "openllm-"  # by which scanners of repositories and logs know one
RANDOM_BYTES = 32
_HEX = re.compile(r"[0-9a-fA-F]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ADMIN = "admin"
UNNAMED = "env-"
"""Keys of OPENLLM_API_KEY have no names of their own: they are env-1, env-2, … in their order."""

MOST_PER_MINUTE = 10**9


@attrs.frozen(kw_only=True)
class Key:
    """One key.

    SHA-256 without salt or stretching is right here: a key is 256 random bits, which no table holds and nobody tries out.
    Salt and slowness protect what people make up, and would cost each request what one hash of a password costs.

    Attributes:
        name: unique; stands in metrics, in usage and in the log, so it is no secret.
        sha256: of the key's text, hex.
        created: ISO 8601, UTC.
        models: served names and adapters that it may use; none given: all.
        requests_per_minute, tokens_per_minute: None: no limit. Tokens are those of prompts and answers together.
        concurrency: requests under way at once.
        priority: the best that its requests get.
        old_sha256: of the key that this one replaced, which opens until `old_until`.
    """

    name: str = field(min_length=1, max_length=64)
    sha256: str = field(min_length=64, max_length=64)
    created: str = field(default="")
    models: list[str] | None = field(default=None, min_length=1, max_length=1024)
    requests_per_minute: int | None = field(default=None, ge=1, le=MOST_PER_MINUTE)
    tokens_per_minute: int | None = field(default=None, ge=1, le=MOST_PER_MINUTE)
    concurrency: int | None = field(default=None, ge=1, le=1_000_000)
    priority: Literal["interactive", "background"] = field(default="interactive")
    old_sha256: str | None = field(default=None, min_length=64, max_length=64)
    old_until: str | None = field(default=None)

    def digests(self) -> list[tuple[bytes, float | None]]:
        """Digests that open it, each with the Unix time at which it stops to; None: never.

        Raises:
            ValueError: one is no hex, or a time is none; says which.
        """
        found: list[tuple[bytes, float | None]] = [(_digest(self.sha256, "sha256"), None)]
        if self.old_sha256 is not None:
            if self.old_until is None:
                raise ValueError("old_sha256 needs old_until, the time at which it stops to open")
            found.append((_digest(self.old_sha256, "old_sha256"), _time(self.old_until)))
        return found

    def old_opens(self) -> bool:
        """Whether the key that this one replaced opens still."""
        return self.old_until is not None and _time(self.old_until) > datetime.now(UTC).timestamp()


def new_key() -> str:
    """Text of a fresh key: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest_of(text: bytes) -> bytes:
    """What is kept and compared of a key."""
    return hashlib.sha256(text).digest()


def now() -> str:
    """This moment as `created` has it."""
    return utc(datetime.now(UTC))


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(text: str, name: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise ValueError(f"{name} is not hexadecimal")
    return bytes.fromhex(text)


def _time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"old_until: {text[:40]!r} is no time with its zone, such as {now()}")
    return moment.timestamp()
