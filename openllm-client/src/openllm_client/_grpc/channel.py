"""Where a gRPC client connects and how: target, credentials, options and metadata, settled once when it is made.

The checks of address, key and headers are those of the HTTP clients (`_config`); here is what gRPC has of its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import grpc
import httpx

from openllm_core.errors import InvalidSetting

from .._config import CONNECT_LIMIT_S, Certificate, ClientSettings

MAX_ANSWER_BYTES = 64 * 1024 * 1024
SERVING = b"\x08\x01"  # HealthCheckResponse with status = SERVING
HEALTH = "/grpc.health.v1.Health/Check"


@attrs.frozen(kw_only=True)
class Target:
    """What a channel is made of.

    Attributes:
        credentials: None for a connection that is not encrypted.
        metadata: sent with every call, the key included; never printed.
    """

    name: str
    credentials: grpc.ChannelCredentials | None
    options: Sequence[tuple[str, Any]]
    metadata: Sequence[tuple[str, str]] = attrs.field(repr=False)


def target(
    settings: ClientSettings, *, verify: bool | str | ssl.SSLContext, cert: Certificate | None, proxy: str | None
) -> Target:
    """Check what the constructor was given, as far as gRPC is special.

    Raises:
        InvalidSetting: naming the argument.
    """
    url = httpx.URL(settings.base_url)
    if url.port is None:
        raise InvalidSetting(
            f"address: {settings.base_url} names no port.",
            hint="An address looks like localhost:3001.",
            param="address",
        )
    if url.path not in ("", "/"):
        raise InvalidSetting(f"address: {settings.base_url} has a path, which gRPC has not.", param="address")
    options: list[tuple[str, Any]] = [
        ("grpc.primary_user_agent", settings.headers["user-agent"]),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.enable_retries", 0),  # `_retry` decides
        ("grpc.use_local_subchannel_pool", 1),  # another client's failures are not ours
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_LIMIT_S * 1000)),  # the limit of one attempt
    ]
    if proxy is not None:
        options.append(("grpc.http_proxy", proxy))
    elif settings.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))
    host = f"[{url.host}]" if ":" in url.host else url.host
    return Target(
        name=f"{host}:{url.port}",
        credentials=_credentials(verify, cert) if url.scheme == "https" else None,
        options=options,
        metadata=[(name, value) for name, value in settings.headers.items() if name != "user-agent"],
    )


def _credentials(verify: bool | str | ssl.SSLContext, cert: Certificate | None) -> grpc.ChannelCredentials:
    if verify is False or isinstance(verify, ssl.SSLContext):
        raise InvalidSetting(
            "verify: over gRPC, True or a file or folder of certificates.",
            hint="Give the server's own certificate as the file to trust that server alone.",
            param="verify",
        )
    roots = None if verify is True else _roots(Path(verify))
    chain, key = (None, None) if cert is None else cert.read()
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)


def _roots(path: Path) -> bytes:
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = b"\n".join(file.read_bytes() for file in files if file.is_file())
    except OSError as error:
        raise InvalidSetting(f"verify: {str(path)!r} cannot be read: {error}.", param="verify") from None
    if b"BEGIN CERTIFICATE" not in found:
        raise InvalidSetting(f"verify: {str(path)!r} holds no certificates.", param="verify")
    return found
