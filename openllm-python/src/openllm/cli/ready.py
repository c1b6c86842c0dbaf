"""What `openllm start` says once the model answers: lines to copy that work as they stand; and its note for `ps`.

`ready_text` is pure; `remember` writes `$XDG_RUNTIME_DIR/openllm/<pid>.json`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

QUESTION = "Why is the sky blue?"
_EMPTY = {"endpoint": "", "model": "", "backend": "", "device": "", "key_needed": False, "pid": 0, "started": 0}


@attrs.frozen(kw_only=True)
class Ready:
    """Facts of a server that answers.

    Attributes:
        endpoint: URL without a path, as a client on this machine reaches it.
        model: name to use in `model`.
        key_needed: whether requests must carry an API key.
    """

    endpoint: str
    model: str
    backend: str
    device: str
    key_needed: bool = False
    pid: int = attrs.field(factory=os.getpid)

    def as_data(self) -> dict[str, Any]:
        """For `-o json` and the runtime note."""
        return attrs.asdict(self)


def curl_line(ready: Ready) -> str:
    """A shell command that streams an answer."""
    body = json.dumps(
        {"model": ready.model, "messages": [{"role": "user", "content": QUESTION}], "stream": True}, ensure_ascii=False
    )
    key = ' -H "Authorization: Bearer $OPENLLM_API_KEY"' if ready.key_needed else ""
    return (
        f"curl -N {ready.endpoint}/v1/chat/completions{key} \\\n  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def python_snippet(ready: Ready) -> str:
    """A program that streams an answer; the key, when one is needed, comes from OPENLLM_API_KEY."""
    return (
        "from openllm_client import HTTPClient\n\n"
        f"client = HTTPClient({json.dumps(ready.endpoint)})\n"
        f"for chunk in client.chat({json.dumps(QUESTION)}, stream=True):\n"
        '    print(chunk.text, end="", flush=True)\n'
        "print()"
    )


def openai_arguments(ready: Ready) -> str:
    """What the `openai` package is given instead of its defaults."""
    key = 'os.environ["OPENLLM_API_KEY"]' if ready.key_needed else '"none"'
    return f'OpenAI(base_url="{ready.endpoint}/v1", api_key={key})'


def python_name() -> str:
    """How to call the Python that has our packages: `python` where that is it, else its path."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and Path(found).parent == Path(sys.executable).parent:
            return name
    with suppress(ValueError):
        return str(Path(sys.executable).relative_to(Path.cwd()))
    return sys.executable


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


def forget(note: Path | None) -> None:
    """Remove the note."""
    if note is not None:
        note.unlink(missing_ok=True)
