"""/docs as a person meets it: opened in a browser's document model, every link looked up, every Send button pressed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import npm
from tests.openllm.server.serving import listening, serving

JSDOM = "31.0.1"


@pytest.fixture(scope="module")
def jsdom() -> Path:
    """A folder with jsdom, fetched from npm once per environment."""
    folder = Path(sys.prefix) / f"jsdom-{JSDOM}"
    npm.install(folder, "install", f"jsdom@{JSDOM}")
    return folder


async def opened(folder: Path, key: str | None = None) -> tuple[str, dict[str, Any]]:
    """The server's address, and what the page showed."""
    options = {"api_key": (key,)} if key else {}
    async with serving(reply="Hello there.", options=options) as served, listening(served) as port:
        address = f"http://127.0.0.1:{port}"
        script = Path(__file__).with_name("page.mjs")
        command = [npm.NODE, str(script), str(folder), f"{address}/docs"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return address, json.loads(done.stdout)


async def test_every_route_can_be_tried(jsdom: Path):
    """The page comes up without an error, asks this server alone, and each example succeeds as it stands.

    Those about adapters tell how to start a server that has some: this one has none.
    """
    address, seen = await opened(jsdom)
    assert seen["errors"] == []
    assert seen["state"] == "The model answers."
    assert seen["dangling"] == seen["raw"] == []
    assert [url for url in seen["loaded"] if not url.startswith(address + "/")] == []
    refused = {route: text for route, (text, _) in seen["answers"].items() if not text.startswith("200 OK")}
    assert {route for route in refused if "/v1/adapters" not in route} == set()
    assert len(refused) == 4 and all("--adapter-id" in text for text in refused.values())
    assert all(stopped for _, stopped in seen["answers"].values())
    assert "Hello there." in seen["answers"]["POST /v1/chat/completions"][0]


async def test_without_the_key_the_page_asks_for_it(jsdom: Path):
    """A guarded server shows no route, and the page says what is missing."""
    _, seen = await opened(jsdom, key="secret")
    assert seen["state"] == "This server needs a key: type it below."
    assert seen["answers"] == {} and seen["errors"] == []
