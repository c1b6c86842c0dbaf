"""Notes of the servers that run here: each leaves one once it answers, by which `openllm ps` and a container's check find it.

Called by `openllm start` and by the service of a Bento. A note is `$XDG_RUNTIME_DIR/openllm/<pid>.json`; one that is left of
a process that was killed is not believed. Knows nothing of how a server came about.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

ANSWER_S = 5.0
_EMPTY = {
    "endpoint": "",
    "model": "",
    "backend": "",
    "device": "",
    "key_needed": False,
    "protocol": "http",
    "pid": 0,
    "started": 0,
}


@attrs.frozen(kw_only=True)
class Ready:
    """Facts of a server that answers.

    Attributes:
        endpoint: URL without a path, as a client on this machine reaches it.
        model: name to use in `model`.
        key_needed: whether requests must carry an API key.
        protocol: that the endpoint speaks; one of gRPC is HOST:PORT.
    """

    endpoint: str
    model: str
    backend: str
    device: str
    key_needed: bool = False
    protocol: str = "http"
    pid: int = attrs.field(factory=os.getpid)

    def as_data(self) -> dict[str, Any]:
        """For `-o json` and the note."""
        return attrs.asdict(self)


def endpoint(host: str, port: int, *, tls: bool = False) -> str:
    """URL of a bound address as a client on this machine writes it."""
    if host in ("0.0.0.0", ""):
        host = "127.0.0.1"
    elif ":" in host:
        host = "[::1]" if host == "::" else f"[{host}]"
    return f"{'https' if tls else 'http'}://{host}:{port}"


def own_endpoint() -> str | None:
    """Endpoint of the socket that this process listens on, where somebody else bound it; None when it listens on none."""
    import psutil

    process: Any = psutil.Process()
    connections = (
        process.net_connections if hasattr(process, "net_connections") else process.connections
    )  # until psutil 6
    for found in connections("tcp"):
        if found.status == psutil.CONN_LISTEN:
            return endpoint(found.laddr.ip, found.laddr.port)
    return None


def remember(ready: Ready) -> Path | None:
    """Leave a note of this server for other commands; None where the system has no runtime folder."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if not base:
        return None
    note = Path(base) / "openllm" / f"{ready.pid}.json"
    try:
        note.parent.mkdir(mode=0o700, exist_ok=True)
        note.write_text(json.dumps(ready.as_data() | {"started": int(time.time())}) + "\n", encoding="utf-8")
    except OSError:
        return None
    return note


def forget(note: Path | None) -> None:
    """Remove the note."""
    if note is not None:
        with suppress(OSError):
            note.unlink(missing_ok=True)


def running() -> list[dict[str, Any]]:
    """The notes of servers that are alive, oldest first; the note of one that was killed is removed.

    Returns:
        what `Ready.as_data` has, with `started` in seconds since the epoch.
    """
    import psutil

    base = os.environ.get("XDG_RUNTIME_DIR")
    found: list[dict[str, Any]] = []
    for note in sorted(Path(base, "openllm").glob("*.json")) if base else []:
        try:
            facts: dict[str, Any] = {**_EMPTY, **json.loads(note.read_text(encoding="utf-8"))}
            pid, started = int(note.stem), float(facts["started"])
        except (OSError, ValueError, TypeError):
            continue  # no note of ours, or gone in this moment
        try:
            alive = psutil.Process(pid).create_time() <= started + 1  # the note counts whole seconds
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            alive = False
        if alive:
            found.append(facts)
        else:
            note.unlink(missing_ok=True)
    return sorted(found, key=lambda facts: facts["started"])


def is_ready(facts: dict[str, Any]) -> bool:
    """Whether the server of a note answers `/readyz` with 200 now; of one that speaks gRPC alone, takes connections.

    No proxy of the environment is asked.
    """
    if facts["protocol"] == "grpc":
        return _takes_connections(str(facts["endpoint"]))
    where = urlsplit(str(facts["endpoint"]))
    if where.scheme == "https":
        trust = ssl.create_default_context()  # of our own server on our own machine no certificate is asked
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(where.netloc, timeout=ANSWER_S, context=trust)
    else:
        connection = http.client.HTTPConnection(where.netloc, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _takes_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError):
        return False
    return True
