"""Files of our pages, which are part of the package and never change while a server runs: `routes/openapi.py` and
`routes/ui.py` list them. They need no key, may be kept by a browser that asks whether they are still the same, and carry a
policy that leaves a page nothing but itself and the server. Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from .operation import Endpoint

POLICY: Mapping[str, str] = {
    "default-src": "'none'",
    "img-src": "data:",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
"""What a page may do: run its own script, ask its own server, and never read a text as markup or code."""

SAFETY = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache"}


def policy_text(policy: Mapping[str, str]) -> str:
    """A policy as its header has it."""
    return "; ".join(f"{name} {value}" for name, value in policy.items())


def constant_file(
    name: str, kind: str, policy: Callable[[Request], Mapping[str, str]] = lambda request: POLICY
) -> Endpoint:
    """An endpoint that serves a file of `server/ui`.

    Args:
        name: its path under `server/ui`.
        kind: its content type.
        policy: what the page may do, for one request.
    """

    async def serve(request: Request) -> ASGIApp:
        content, tag = _read(name)
        headers = SAFETY | {"etag": tag, "content-security-policy": policy_text(policy(request))}
        if tag in (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | {"content-type": kind})

    return serve


@lru_cache
def _read(name: str) -> tuple[bytes, str]:
    """The file's bytes and what tells them from others."""
    content = resources.files("openllm.server").joinpath("ui", *name.split("/")).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
