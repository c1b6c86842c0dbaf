"""`GET /` and `/chat`: the page to talk to the model, built from `openllm-ui/`. Its files are constant and need no key; what
they ask the server does.

The page may talk to another server that its own address names (`?endpoint=`): then, and only then, the policy allows that
one besides its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.requests import Request

from ..constant import POLICY, constant_file
from ..operation import Operation

PAGES = ("/", "/chat")
PAGE = ("chat/index.html", "text/html; charset=utf-8")
PARTS = {
    "/chat/app.js": ("chat/app.js", "text/javascript; charset=utf-8"),
    "/chat/app.css": ("chat/app.css", "text/css; charset=utf-8"),
    "/chat/licences.txt": ("chat/licences.txt", "text/plain; charset=utf-8"),
}
_ORIGIN = re.compile(
    r"(?:(https?)://)?([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(:\d{1,5})?(?:/[^\s?#]*)?", re.I
)


def operations() -> list[Operation]:
    """The routes of this file."""
    pages = [
        Operation(
            path=path,
            methods=("GET",),
            endpoint=constant_file(*PAGE, policy=policy_of),
            summary="The page to talk to the model.",
            tag="Web UI",
            media="text/html",
            open=True,
        )
        for path in PAGES
    ]
    parts = [
        Operation(
            path=path,
            methods=("GET",),
            endpoint=constant_file(name, kind),
            summary=f"Part of the page: {path.rpartition('/')[2]}.",
            tag="Web UI",
            media=kind.partition(";")[0],
            open=True,
        )
        for path, (name, kind) in PARTS.items()
    ]
    return [*pages, *parts]


def policy_of(request: Request) -> Mapping[str, str]:
    """What the page may do: ask its own server, and the one that its address names."""
    other = origin_of(request.query_params.get("endpoint", ""))
    return {**POLICY, "connect-src": f"'self' {other}"} if other else POLICY


def origin_of(endpoint: str) -> str:
    """Scheme, host and port of a server's address, as a policy takes them; "" where it is none. Without a scheme it is http."""
    found = _ORIGIN.fullmatch(endpoint.strip())
    if found is None:
        return ""
    scheme, host, port = found.groups()
    return f"{(scheme or 'http').lower()}://{host.lower()}{port or ''}"
