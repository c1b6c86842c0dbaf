"""Who can reach an address and whether that is safe without a key; who may change what is served."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping

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


def _digest_equal(one: str, other: str) -> bool:
    digests = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (one, other))
    return hmac.compare_digest(*digests)
