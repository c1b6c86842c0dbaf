"""Where requests may come from: addresses that only this machine reaches, and origins of web pages.

Asked at the start, and by the HTTP middleware.
"""

from __future__ import annotations

import ipaddress
import re

from openllm_core.errors import InvalidSetting
from openllm_core.options import ServerOptions

ANY_ORIGIN = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_USUAL_PORTS = (("http://", ":80"), ("https://", ":443"))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed_origins(options: ServerOptions) -> frozenset[str]:
    """Origins of `--cors`, as browsers write them: in lower case, without their scheme's usual port.

    Raises:
        InvalidSetting: one is none, such as an address with a path.
    """
    return frozenset(_origin(text) for text in options.cors)


def _origin(text: str) -> str:
    if text == ANY_ORIGIN:
        return text
    found = text.lower().removesuffix("/")
    if not _ORIGIN.fullmatch(found):
        raise InvalidSetting(
            f"--cors: {text[:200]!r} is no origin.",
            hint="Scheme, host and port alone: https://app.example.com or http://localhost:5173.",
            param="--cors",
        )
    for scheme, port in _USUAL_PORTS:
        if found.startswith(scheme):
            found = found.removesuffix(port)
    return found
