"""A model hub played by a small HTTP server on this machine: the real huggingface_hub talks to it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
from tests.openllm.serialisation import small

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@attrs.define
class Hub:
    """Files of the one repository `org/tiny` and what goes wrong on purpose.

    Attributes:
        cut: end of the path of a file that never comes further than its middle.
        promised: SHA-256 that is told of a file, where it is not its own.
        requests, ranges: what was asked for.
    """

    files: dict[str, bytes]
    url: str = ""
    gated: bool = False
    cut: str = ""
    promised: dict[str, str] = attrs.field(factory=dict)
    requests: list[str] = attrs.field(factory=list)
    ranges: list[str] = attrs.field(factory=list)

    def info(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(".safetensors"):
                digest = self.promised.get(name) or hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 100}
            siblings.append(entry)
        return {
            "id": "org/tiny",
            "modelId": "org/tiny",
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "siblings": siblings,
        }


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            return

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            state.requests.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                known = parts[2:4] == ["org", "tiny"]
                revision = parts[5] if len(parts) > 5 else "main"
                if not known:
                    self.reply(
                        401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, body
                    )
                elif revision not in ("main", COMMIT):
                    self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                else:
                    self.reply(200, json.dumps(state.info()).encode(), {"Content-Type": "application/json"}, body)
                return
            content = state.files.get("/".join(parts[4:]))
            if state.gated:
                self.reply(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, body)
            elif content is None:
                self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
            else:
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                self.file(content, {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, body)

        def file(self, content: bytes, headers: dict[str, str], body: bool) -> None:
            start = 0
            state.ranges += [self.headers["Range"]] if self.headers["Range"] and body else []
            if (wanted := self.headers.get("Range", "")).startswith("bytes=") and body:
                start = int(wanted[6:].partition("-")[0] or 0)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = bool(state.cut) and self.path.partition("?")[0].endswith(state.cut)
            self.reply(206 if start else 200, content[start:], headers, body, max(0, len(content) // 2 - start), cut)

        def reply(
            self, status: int, content: bytes, headers: dict[str, str], body: bool, most: int = 0, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[:most] if cut else content)
            if cut:
                self.close_connection = True

    return Handler


@contextmanager
def running(folder: Path) -> Generator[Hub]:
    """A running hub with a whole model and files nobody wants."""
    small.model_folder(folder)
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    files |= {
        "README.md": b"#",
        "pytorch_model.bin": b"p",
        "model.onnx": b"o",
        "onnx/model.onnx": b"o",
        "tf_model.h5": b"h",
    }
    state = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
