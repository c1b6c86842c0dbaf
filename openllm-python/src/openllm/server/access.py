"""Who can reach an address, and whether that is safe without a key."""

from __future__ import annotations

import ipaddress

from openllm_core.errors import UnsafeConfiguration
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
