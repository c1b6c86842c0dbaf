"""Where a client connects and how: address, key, time-outs, headers, resolved once when the client is made.

Called by the constructors of both clients. The environment is read here and nowhere else in this package; makes no
connection. Knows nothing of routes.
"""

from __future__ import annotations

import ipaddress
import math
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import httpx

from openllm_core.errors import InvalidSetting

T = TypeVar("T")

DEFAULT_ADDRESS = "http://localhost:3000"
CONNECT_LIMIT_S = 10.0

# The server closes an idle connection after 5 s: one that is nearly that old is not used for another request. For every request
# httpcore looks at each idle connection: keeping 128 tripled the time of short requests, 32 at a time.
LIMITS = httpx.Limits(max_connections=1024, max_keepalive_connections=20, keepalive_expiry=4.0)


@attrs.frozen(kw_only=True)
class ClientSettings:
    """What a client was told, checked.

    Attributes:
        base_url: scheme, host, port and path prefix, without a final slash.
        timeout_s: limit of a whole one-shot call, and of silence on a stream.
        headers: sent with every request, the key included; never printed.
    """

    base_url: str
    timeout_s: float
    max_retries: int
    headers: dict[str, str] = attrs.field(repr=False)
    is_loopback: bool


def resolve(
    address: str | None,
    timeout: float,
    *,
    api_key: str | None,
    max_retries: int,
    headers: Mapping[str, str] | None,
    environ: Mapping[str, str] | None = None,
) -> ClientSettings:
    """Check what the constructor was given; fill the gaps from `OPENLLM_ENDPOINT` and `OPENLLM_API_KEY`.

    Raises:
        InvalidSetting: naming the argument or variable at fault; a key is never part of the message.
    """
    environ = os.environ if environ is None else environ
    origin, text = "address", address
    if text is None:
        found = environ.get("OPENLLM_ENDPOINT", "").strip()
        origin, text = ("OPENLLM_ENDPOINT", found) if found else ("address", DEFAULT_ADDRESS)
    url = _parse_address(text, origin)
    if isinstance(timeout, bool) or not math.isfinite(timeout) or timeout <= 0:
        raise InvalidSetting(f"timeout: {timeout!r} is not a number of seconds above 0.", param="timeout")
    if isinstance(max_retries, bool) or max_retries < 0:
        raise InvalidSetting(f"max_retries: {max_retries!r} is not a whole number >= 0.", param="max_retries")
    return ClientSettings(
        base_url=str(url).rstrip("/"),
        timeout_s=float(timeout),
        max_retries=max_retries,
        headers=_headers(_key(api_key, environ), headers),
        is_loopback=_is_loopback(url.host),
    )


def _parse_address(text: str, origin: str) -> httpx.URL:
    def refuse(why: str, shown: str | None = None) -> InvalidSetting:
        shown = repr(text.strip()[:200]) if shown is None else shown
        return InvalidSetting(
            f"{origin}: {shown} {why}.", hint="An address looks like http://localhost:3000.", param=origin
        )

    stripped = text.strip()
    if not stripped:
        raise refuse("is empty")
    try:
        url = httpx.URL(stripped if "://" in stripped else f"http://{stripped}")
    except (httpx.InvalidURL, ValueError) as error:
        raise refuse(f"is not an address: {error}".rstrip(".")) from None
    if url.userinfo:
        raise refuse("has a user name in it; give api_key= or headers= instead", shown="the address")
    if url.scheme not in ("http", "https"):
        raise refuse(f"has the scheme {url.scheme!r}; only http and https are spoken")
    if not url.host or " " in url.host or "%20" in url.host:
        raise refuse("has no host")
    if url.port is not None and not 0 < url.port < 65536:
        raise refuse("has a port outside 1..65535")
    if url.query or url.fragment:
        raise refuse("has a query or fragment")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(api_key: str | None, environ: Mapping[str, str]) -> str | None:
    origin, key = "api_key", api_key
    if key is None:
        # The server reads a comma list of keys from the same variable; any one of them opens it.
        origin, key = "OPENLLM_API_KEY", environ.get("OPENLLM_API_KEY", "").split(",")[0].strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidSetting(f"{origin}: holds a blank, a control or a non-ASCII character.", param=origin)
    return key


def _headers(key: str | None, given: Mapping[str, str] | None) -> dict[str, str]:
    headers = {"user-agent": "openllm-client"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    for name, value in (given or {}).items():
        if not name.isascii() or not value.isascii() or not value.isprintable():
            raise InvalidSetting(f"headers: {name!r} holds a control or a non-ASCII character.", param="headers")
        headers[name.lower()] = value
    return headers


@attrs.frozen
class Certificate:
    """What a client shows of itself over TLS: files in PEM format.

    Attributes:
        chain: its certificate, and those that lead to its authority.
        key: its private key, without a password; the same file when it holds both.
    """

    chain: str
    key: str

    @classmethod
    def of(cls, given: str | tuple[str, str] | None) -> Certificate | None:
        """The argument `cert`: one file with both, or two."""
        if given is None:
            return None
        return cls(given, given) if isinstance(given, str) else cls(*given)

    def read(self) -> tuple[bytes, bytes]:
        """The two files, looked at: gRPC itself would say of a wrong one only that no connection came about.

        Raises:
            InvalidSetting: one cannot be read, or they are no certificate and its key.
        """
        self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return Path(self.chain).read_bytes(), Path(self.key).read_bytes()

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have connections of `context` show the certificate.

        Raises:
            InvalidSetting: as `read`.
        """
        try:
            # A key that wants a password must fail here, not ask for it at the terminal.
            context.load_cert_chain(self.chain, self.key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise InvalidSetting(
                f"cert: {self.chain!r} and {self.key!r} are no certificate and its key: {error}.",
                hint="Files in PEM format; the key without a password.",
                param="cert",
            ) from None


def transport_options(
    settings: ClientSettings,
    *,
    verify: bool | str | ssl.SSLContext,
    cert: str | tuple[str, str] | None = None,
    proxy: str | None,
) -> dict[str, Any]:
    """Keyword arguments that `httpx.Client` and `httpx.AsyncClient` share.

    A loopback address is never sent to a proxy named by the environment; one given as `proxy` is used.
    """
    bypass = settings.is_loopback and proxy is None
    return {
        "headers": settings.headers,
        "verify": _trust(verify, Certificate.of(cert)),
        "proxy": proxy,
        "limits": LIMITS,
        "follow_redirects": False,
        "mounts": {f"all://{httpx.URL(settings.base_url).netloc.decode()}": None} if bypass else None,
    }


def _trust(verify: bool | str | ssl.SSLContext, cert: Certificate | None) -> bool | ssl.SSLContext:
    if isinstance(verify, str):
        verify = _context(verify)
    elif cert is not None and isinstance(verify, ssl.SSLContext):
        raise InvalidSetting("cert: load it into the SSL context that is given as verify.", param="cert")
    if cert is None:
        return verify
    context = verify if isinstance(verify, ssl.SSLContext) else httpx.create_ssl_context(verify=verify)
    cert.load_into(context)
    return context


def _context(verify: str) -> ssl.SSLContext:
    try:
        if Path(verify).is_dir():
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"verify: {verify!r} holds no certificates: {error}.", param="verify") from None


def make(build: Callable[[], T]) -> T:
    """Build a client of httpx.

    Raises:
        InvalidSetting: a proxy's address, given or from the environment, is unusable.
    """
    try:
        return build()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        hint = "Proxies come from proxy= or from HTTP_PROXY, HTTPS_PROXY and ALL_PROXY."
        raise InvalidSetting(f"proxy: {str(error)[:200]}", hint=hint, param="proxy") from None


class Deadline:
    """A point in time by which something must be done.

    Args:
        seconds: from now.
    """

    __slots__ = ("_at",)

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left; 0 or less when it has passed."""
        return self._at - time.monotonic()
