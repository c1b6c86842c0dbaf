"""Who may call: whether an address is safe without a key, which keys open it, and who may change what is served.

Asked by HTTP and gRPC alike, which each read a request's headers in their own way; knows neither.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Mapping, Sequence

from openllm_core.errors import InvalidRequest, UnsafeConfiguration
from openllm_core.options import ServerOptions


def check_access(options: ServerOptions) -> None:
    """Refuse to serve a public address without a key.

    Raises:
        UnsafeConfiguration: names the two ways out.
    """
    if options.api_key or options.no_auth or is_loopback(options.host):
        return
    raise UnsafeConfiguration(
        f"Serving {options.host} without a key would open the model to everyone who can reach this machine.",
        hint="Set OPENLLM_API_KEY, or type --no-auth if that is what you want.",
        param="--host",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Keys:
    """The keys that open a server. Digests are compared, all of them, in constant time.

    Args:
        keys: as the operator gave them; none at all opens the server to everybody.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def of(cls, options: ServerOptions) -> Keys:
        """Those of a server: the admin key opens what the others do, and alone it closes nothing."""
        return cls((*options.api_key, *filter(None, [options.admin_key])) if options.api_key else ())

    def check(self, given: Sequence[str]) -> None:
        """Let a request pass.

        Args:
            given: every `authorization` header it has; exactly one may be there.

        Raises:
            InvalidRequest: `invalid_api_key`.
        """
        if self._digests and not self._among(given):
            raise InvalidRequest("A valid API key is needed: Authorization: Bearer <key>.", code="invalid_api_key")

    def _among(self, given: Sequence[str]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(" ")
        if scheme.lower() != "bearer":
            return False
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of `Authorization: Bearer <token>`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def require_admin(headers: Mapping[str, str], options: ServerOptions) -> None:
    """Let a request change what is served: with the admin key, or on a server without any key.

    Raises:
        InvalidRequest: `admin_key_needed`.
    """
    if not options.admin_key and not options.api_key:
        return
    given = bearer(headers)
    if options.admin_key and given is not None and _digest_equal(given, options.admin_key):
        return
    raise InvalidRequest(
        "This needs the admin key: Authorization: Bearer <the value of OPENLLM_ADMIN_KEY>."
        if options.admin_key
        else "This server has no admin key, so nobody may change what it serves; its operator can set OPENLLM_ADMIN_KEY.",
        code="admin_key_needed",
    )


def require_loading(headers: Mapping[str, str], options: ServerOptions, *, enabled: bool) -> None:
    """Let a request load or unload an adapter: as `require_admin`, and where the operator allows it at all.

    Args:
        enabled: whether the server takes adapters; where it does not, that is what the caller will hear instead.

    Raises:
        InvalidRequest: `admin_key_needed`, `adapter_loading_forbidden`.
    """
    require_admin(headers, options)
    if enabled and not options.allow_adapter_load:
        raise InvalidRequest(
            "This server loads and unloads no adapters on request.",
            hint="Start it with --allow-adapter-load.",
            code="adapter_loading_forbidden",
        )


def _digest_equal(one: str, other: str) -> bool:
    digests = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (one, other))
    return hmac.compare_digest(*digests)
