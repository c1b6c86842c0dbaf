"""The door of one server: which keys open it, whose each request is, and whether it may pass now.

Made by `compose`, shared by HTTP and gRPC, which hand in the `authorization` headers they got. Looks after the key file: a change
of it counts within a second, and a file that is broken meanwhile changes nothing.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from openllm.observation import current
from openllm_core.errors import ConfigError, InvalidRequest, InvalidSetting, UnsafeConfiguration
from openllm_core.options import ServerOptions

from . import key_file
from .accounts import Account, asking
from .addresses import allowed_origins, is_loopback
from .keys import ADMIN, UNNAMED, Key, digest_of
from .metrics import KeyMetrics
from .priority import steps_back

LOOK_S = 1.0
_log = logging.getLogger("openllm.access")


def has_keys(options: ServerOptions) -> bool:
    """Whether a server asks for a key. The admin key alone closes nothing."""
    return bool(options.api_key or options.api_key_file)


def check_access(options: ServerOptions) -> None:
    """Refuse to serve a public address without a key, or with a key file that cannot be used.

    Raises:
        UnsafeConfiguration: names the ways out.
        InvalidSetting: the key file is broken, or has no key; `--cors` names what is no origin.
    """
    allowed_origins(options)
    if options.api_key_file:
        path = Path(options.api_key_file).expanduser()
        if not key_file.read(path).keys and not options.api_key:
            raise InvalidSetting(
                f"The key file {path} has no key.", hint=f"openllm keys add NAME --api-key-file {path}"
            )
    if has_keys(options) or options.no_auth or is_loopback(options.host):
        return
    raise UnsafeConfiguration(
        f"Serving {options.host} without a key would open the model to everyone who can reach this machine.",
        hint="Set OPENLLM_API_KEY or give --api-key-file, or type --no-auth if that is what you want.",
        param="--host",
    )


class Access:
    """Who may ask one server. Digests are compared, all of them, in constant time.

    Args:
        options: keys of the environment, the key file, the admin key.
        registry: what /metrics shows; the counts per key are added to it.

    Raises:
        ConfigError: the key file cannot be used; see `key_file.read`.
    """

    def __init__(self, options: ServerOptions, registry: CollectorRegistry | None = None) -> None:
        self.closed = has_keys(options)
        self.since = int(time.time())
        self._own = [
            Key(name=f"{UNNAMED}{number}", sha256=digest_of(key.encode()).hex())
            for number, key in enumerate(options.api_key, start=1)
        ]
        self._admin_key = options.admin_key
        self._path = Path(options.api_key_file).expanduser() if options.api_key_file else None
        self._accounts: dict[str, Account] = {}
        self._digests: list[tuple[bytes, float | None, Account]] = []
        self._anybody = Account(Key(name="", sha256=""), admin=not (self.closed or options.admin_key))
        self._seen: tuple[int, ...] | None = None
        self._looked_at = time.monotonic()
        self._load()
        self.metrics = KeyMetrics(self, registry)

    # -- for each request ---------------------------------------------------------------------------------------------

    @contextmanager
    def passing(self, given: Sequence[str], *, counts: bool, priority: Sequence[str] = ()) -> Generator[Account]:
        """Around one request: whose it is, until it has ended.

        Args:
            given: every `authorization` header it has.
            counts: against the key's limits; what only reads does not.
            priority: every header it has by which it may step back; see `steps_back`.

        Raises:
            InvalidRequest: `invalid_api_key`; `invalid_value` of the priority.
            RateLimitExceeded: the key has had what it may have.
        """
        account = self.identify(given)
        if (seen := current()) is not None:
            seen.key = account.name
        with asking(account, steps_back=steps_back(priority)):
            if counts:
                with account.working():
                    yield account
            else:
                yield account

    def identify(self, given: Sequence[str]) -> Account:
        """Whose a request is.

        Args:
            given: every `authorization` header it has; exactly one may be there.

        Raises:
            InvalidRequest: `invalid_api_key`.
        """
        self._look()
        account = self._shown(given)
        if account is not None:
            return account
        if self.closed:
            raise InvalidRequest("A valid API key is needed: Authorization: Bearer <key>.", code="invalid_api_key")
        return self._anybody

    def _shown(self, given: Sequence[str]) -> Account | None:
        if len(given) != 1:
            return None
        scheme, _, key = given[0].partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = digest_of(key.strip().encode("latin-1", "replace"))
        found: Account | None = None
        now = time.time()
        for known, until, account in self._digests:  # to the end, whichever it is
            if hmac.compare_digest(digest, known) and found is None and (until is None or now < until):
                found = account
        return found

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def accounts(self) -> list[Account]:
        """Of all keys, the admin key first; on an open server the one of everybody too."""
        return [*self._accounts.values(), *([] if self.closed else [self._anybody])]

    def seen_by(self, account: Account) -> list[Account]:
        """Whose usage somebody may see: the own, or with the admin key everybody's."""
        return self.accounts if account.admin else [account]

    # -- the key file -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Now and then: whether the key file is another one. Costs one stat a second."""
        if self._path is None or time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        if key_file.signature(self._path) == self._seen:
            return
        try:
            self._load()
        except ConfigError as error:
            hint = f" {error.hint}" if error.hint else ""
            _log.error("The keys from before stay. %s%s", error.message, hint)
        else:
            names = ", ".join(list(self._accounts)[:12])
            _log.info("The key file %s was read again; keys: %s.", self._path, names or "none")

    def _load(self) -> None:
        keys = [*self._own]
        if self._path is not None:
            self._seen = key_file.signature(self._path)
            keys += key_file.read(self._path).keys
        several = len(keys) > 1
        old, self._accounts, self._digests = self._accounts, {}, []
        if self._admin_key:
            admin = Key(name=ADMIN, sha256=digest_of(self._admin_key.encode()).hex())
            self._take(admin, old, tenant=ADMIN if several else "")
        for key in keys:
            self._take(key, old, tenant=key.name if several else "")

    def _take(self, key: Key, old: dict[str, Account], *, tenant: str) -> None:
        account = old.get(key.name) or Account(key, admin=key.name == ADMIN)
        account.change(key)
        account.tenant = tenant
        self._accounts[key.name] = account
        self._digests += [(digest, until, account) for digest, until in key.digests()]
