"""What `openllm start` says once the model answers: lines to copy that work as they stand.

Called by `start` alone. All of it is text made of the facts of a server; nothing is asked or written.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from openllm.running import Ready

QUESTION = "Why is the sky blue?"


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


def grpc_snippet(ready: Ready, *, generates: bool) -> str:
    """A program that asks over gRPC; the key, when one is needed, comes from OPENLLM_API_KEY."""
    head = f"from openllm_client import GrpcClient\n\nclient = GrpcClient({json.dumps(ready.endpoint)})\n"
    if not generates:
        return head + 'print(client.embed(["A text.", "Another text."]))'
    return head + (
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
