"""What one key has used and may still use: its rates, its requests under way, its counts; and whose request runs now.

`Access` has one `Account` per key and sets it around each request; service and routes read it through `caller()`. An account
outlives changes of the key file, so that what was used stays counted.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

import attrs

from openllm_core.errors import InvalidRequest, RateLimitExceeded
from openllm_core.options import ServerOptions

from .keys import Key

if TYPE_CHECKING:  # `start` imports this package before it starts the engine host
    from openllm_core.schema import Usage

MINUTE_S = 60.0
FULL_RETRY_S = 1.0
"""A request that finds all of its key's places taken is told to come back then: nobody knows when one ends."""


class Bucket:
    """A rate: full at first, filled evenly, and in debt where more was taken than was there, as tokens are.

    Args:
        per_minute: what it holds, and gets back each minute.
    """

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = time.monotonic()

    def level(self) -> float:
        """How much is there now."""
        now = time.monotonic()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / MINUTE_S)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Take some, there or not."""
        self._level = self.level() - amount

    def wait_s(self) -> float:
        """Seconds until one is there; 0 = now."""
        return max(0.0, (1.0 - self.level()) * MINUTE_S / self.per_minute)


@attrs.define
class Used:
    """Counts since the server started."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: dict[str, int] = attrs.Factory(lambda: dict.fromkeys(("requests", "tokens", "concurrency"), 0))


class Account:
    """One key at work.

    Attributes:
        key: as the file says now.
        admin: may change what is served.
        tenant: whose its requests are for the engine: the key's name, or "" where there is no other.
        running: requests under way that count.
        used: what it had so far.
    """

    def __init__(self, key: Key, *, admin: bool = False) -> None:
        self.admin = admin
        self.tenant = ""
        self.running = 0
        self.used = Used()
        self.key = key
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.change(key)

    @property
    def name(self) -> str:
        """The key's name; "" on a server without keys."""
        return self.key.name

    def change(self, key: Key) -> None:
        """The file says something else: rates that stay keep what is used up of them."""
        self.key = key
        self._requests = _rated(self._requests, key.requests_per_minute)
        self._tokens = _rated(self._tokens, key.tokens_per_minute)

    def allows(self, model: str) -> bool:
        """Whether the key may use a model or adapter by this name."""
        return self.key.models is None or model in self.key.models

    @contextmanager
    def working(self) -> Generator[None]:
        """Around one request that counts.

        Raises:
            RateLimitExceeded: the key has used up its requests or tokens, or has as many under way as it may.
        """
        self._check()
        if self._requests is not None:
            self._requests.take(1)
        self.used.requests += 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def _check(self) -> None:
        most = self.key.concurrency
        if most is not None and self.running >= most:
            self._refuse("concurrency", f"has {most} requests under way, as many as it may", FULL_RETRY_S)
        for what, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None and (wait := bucket.wait_s()) > 0:
                self._refuse(what, f"has used up its {bucket.per_minute} {what} per minute", wait)

    def _refuse(self, what: str, why: str, wait_s: float) -> None:
        self.used.refused[what] += 1
        raise RateLimitExceeded(f"The key {self.name} {why}.", retry_after_s=wait_s)

    def count(self, usage: Usage) -> None:
        """A request has ended, or was cut: the tokens it had."""
        self.count_tokens(usage.prompt_tokens, usage.completion_tokens)

    def count_tokens(self, prompt: int, completion: int = 0) -> None:
        """The same in numbers."""
        self.used.prompt_tokens += prompt
        self.used.completion_tokens += completion
        if self._tokens is not None:
            self._tokens.take(prompt + completion)

    def left(self) -> dict[str, int]:
        """What may be used at this moment, of each rate there is."""
        rates = {"requests": self._requests, "tokens": self._tokens}
        return {name: max(0, int(bucket.level())) for name, bucket in rates.items() if bucket is not None}


def _rated(old: Bucket | None, per_minute: int | None) -> Bucket | None:
    if per_minute is None:
        return None
    return old if old is not None and old.per_minute == per_minute else Bucket(per_minute)


# -- who asks ---------------------------------------------------------------------------------------------------------

_caller: ContextVar[Account] = ContextVar("openllm caller")
_steps_back: ContextVar[bool] = ContextVar("openllm steps back", default=False)
_ourselves = Account(Key(name="", sha256=""), admin=True)


def caller() -> Account:
    """Whose request runs here; outside of any, nobody's, who may do everything."""
    return _caller.get(_ourselves)


def urgency() -> Literal["interactive", "background"]:
    """How urgent the request that runs here is, by its key and by its own word: whichever asks for less."""
    return "background" if _steps_back.get() else caller().key.priority


@contextmanager
def asking(account: Account, *, steps_back: bool = False) -> Generator[None]:
    """Around one request: it is this one's, and lets others go first if it says so."""
    token, said = _caller.set(account), _steps_back.set(steps_back)
    try:
        yield
    finally:
        _caller.reset(token)
        _steps_back.reset(said)


def require_admin(options: ServerOptions) -> None:
    """Let a request change what is served: with the admin key, or on a server without any key.

    Raises:
        InvalidRequest: `admin_key_needed`.
    """
    if caller().admin:
        return
    raise InvalidRequest(
        "This needs the admin key: Authorization: Bearer <the value of OPENLLM_ADMIN_KEY>."
        if options.admin_key
        else "This server has no admin key, so nobody may change what it serves; its operator can set OPENLLM_ADMIN_KEY.",
        code="admin_key_needed",
    )


def require_loading(options: ServerOptions, *, enabled: bool) -> None:
    """Let a request load or unload an adapter: as `require_admin`, and where the operator allows it at all.

    Args:
        enabled: whether the server takes adapters; where it does not, that is what the caller will hear instead.

    Raises:
        InvalidRequest: `admin_key_needed`, `adapter_loading_forbidden`.
    """
    require_admin(options)
    if enabled and not options.allow_adapter_load:
        raise InvalidRequest(
            "This server loads and unloads no adapters on request.",
            hint="Start it with --allow-adapter-load.",
            code="adapter_loading_forbidden",
        )
