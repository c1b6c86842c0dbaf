"""Nothing is open by accident: every route and gRPC method there is, in every way of asking that once opened some server.

Routes come from the app's own table and methods from reflection, so a new one falls under this by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from tests.openllm.rpc.calling import Called, calling
from tests.openllm.server.serving import OPEN, exchange, listening

from openllm.access import Access
from openllm.compose import build
from openllm.server.app import all_operations
from openllm.server.operation import Operation
from openllm_core.options import EngineOptions, ServerOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
KEY = "Key-One"
Headers = list[tuple[bytes, bytes]]


def bearer(text: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {text}".encode()


WRONG: dict[str, Headers] = {
    "none": [],
    "wrong": [bearer("Key-Two-")],
    "wrong case": [bearer(KEY.lower())],
    "prefix": [bearer(KEY[:-1])],
    "longer": [bearer(KEY + "x")],
    "empty": [bearer("")],
    "two headers": [bearer(KEY), bearer(KEY)],
    "right and wrong": [bearer(KEY), bearer("other")],
    "other scheme": [(b"authorization", f"Basic {KEY}".encode())],
    "no scheme": [(b"authorization", KEY.encode())],
    "other header": [(b"x-api-key", KEY.encode()), (b"cookie", f"authorization=Bearer {KEY}".encode())],
    "list": [bearer(f"x, Bearer {KEY}")],
    "Host of an open path": [(b"host", b"localhost/livez?")],
    "forwarded": [(b"x-original-url", b"/livez"), (b"x-rewrite-url", b"/livez"), (b"x-forwarded-for", b"127.0.0.1")],
    "half a preflight": [(b"origin", b"https://page.test")],
    "preflight": [(b"origin", b"https://page.test"), (b"access-control-request-method", b"POST")],
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def closed() -> AsyncIterator[Called]:
    """A server with one key, over HTTP and gRPC."""
    async with calling(options={"api_key": (KEY,)}, reply="x") as called:
        yield called


def routes(called: Called) -> list[Operation]:
    """All there are."""
    service, options = called.served.composed.service, ServerOptions()
    return all_operations(service, options, CollectorRegistry(), Access(options))


async def ask(called: Called, method: str, path: str, headers: Headers, query: bytes = b"") -> tuple[int, bytes]:
    """Status and body of one request, put to the app as a server would."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [*([] if any(name == b"host" for name, _ in headers) else [(b"host", b"localhost")]), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await called.served.composed.app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_no_route_answers_without_the_key(closed: Called) -> None:
    """Every route, by every method, with every wrong way to show a key: 401 and nothing else; a Host that is none, 403."""
    asked = 0
    for operation in routes(closed):
        if operation.open:
            continue
        for method in METHODS:
            for name, headers in WRONG.items():
                status, body = await ask(closed, method, operation.path, headers)
                wanted = 403 if name == "Host of an open path" else 401
                assert status == wanted, (method, operation.path, name)
                assert b"invalid_api_key" in body or b"forbidden_host" in body
                asked += 1
    assert asked > 2000


async def test_no_path_is_a_way_around(closed: Called) -> None:
    """Paths that some server would take for another, and keys where no key belongs."""
    tricks = (
        "/{0}",
        "//{0}",
        "{0}/",
        "{0}//",
        "/v1/..%2f{0}",
        "/livez/..{0}",
        "/livez/%2e%2e{0}",
        "/livez;{0}",
        "/livez%3f{0}",
        "/livez\\..{0}",
        "/./{0}",
        "{0}%00",
        "{0}%20",
        "{0};/livez",
        "{0}#/livez",
        "/docs/docs.js/..{0}",
    )
    for operation in routes(closed):
        if operation.open:
            continue
        for trick in tricks:
            for method in ("GET", "POST", "OPTIONS"):
                status, _ = await ask(closed, method, trick.format(operation.path), [])
                assert status == 401, (method, trick, operation.path)
        for query in (b"/livez", f"api_key={KEY}".encode(), f"key={KEY}&access_token={KEY}".encode()):
            status, _ = await ask(closed, "GET", operation.path, [], query)
            assert status == 401, (operation.path, query)
    for path in (
        "/LIVEZ",
        "/livez/",
        "//livez",
        "/livez%2f",
        "",
        "*",
        "/docs/",
        "/docs/docs.jsx",
        "/chat/",
        "/chat/app.jsx",
        "/v1",
    ):
        assert (await ask(closed, "GET", path, []))[0] == 401, path


async def test_what_is_open_is_open_and_nothing_else(closed: Called) -> None:
    """Liveness, readiness and the constant files of the page."""
    opened = {operation.path for operation in routes(closed) if operation.open}
    assert opened == OPEN
    for path in opened:
        for name, headers in WRONG.items():
            status, _ = await ask(closed, "GET", path, headers)
            assert status == (403 if name == "Host of an open path" else 200), (path, name)


async def test_with_the_key_no_method_of_any_route_is_a_fault(closed: Called) -> None:
    """Each answers, or says in the one shape why not; never 401, never 500."""
    for operation in routes(closed):
        for method in METHODS:
            status, body = await ask(closed, method, operation.path, [bearer(KEY)])
            assert status not in (401, 500), (method, operation.path)
            if method == "GET":
                assert (status == 405) is ("GET" not in operation.methods) and status < 500, operation.path
            elif status >= 400 and method != "HEAD":
                assert b'"error"' in body


@pytest.mark.parametrize("engine", [{}, {"max_adapters": 1}])
async def test_no_get_is_a_fault_before_the_model_is_there(engine: dict[str, Any]) -> None:
    """Whatever is asked while nothing is loaded is answered, refused, or told to wait; with odd queries too."""
    app = build(EngineOptions(backend="echo", **engine), ServerOptions()).app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        for path in paths:
            for query in ("", "?", "?%00=%ff", "?a=1&a=2", "?" + "x" * 4000):
                for accept in ("*/*", "nonsense", ""):
                    answer = await http.get(path + query, headers={"accept": accept})
                    assert answer.status_code in (200, 400, 405, 503), (path, query, answer.status_code)
                    if answer.status_code != 200:
                        assert answer.json()["error"]["code"] != "internal_error"


async def test_on_the_wire_too(closed: Called) -> None:
    """Absolute-form targets, bare methods, doubled headers and lines that no client library sends."""
    async with listening(closed.served) as port:
        for operation in routes(closed):
            if operation.open:
                continue
            path = operation.path
            for line, host in (
                (f"GET {path} HTTP/1.1", "localhost"),
                (f"GET http://localhost{path} HTTP/1.1", "localhost"),
                (f"GET http://localhost/livez?{path} HTTP/1.0", "localhost"),
                (f"OPTIONS {path} HTTP/1.1", "localhost"),
                (f"GET /{path} HTTP/1.1", "localhost"),
                (f"GET {path}/ HTTP/1.1", "localhost"),
                (f"GET /livez/../{path} HTTP/1.1", "localhost"),
                (f"GET {path} HTTP/1.1", "localhost/livez?"),
                (f"GET {path} HTTP/1.1", "[::1]:80"),
            ):
                head = f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                answer = await exchange(port, head)
                wanted = b"400" if "http://" in line else b"403" if "/livez?" in host else b"401"
                assert answer.split(b" ", 2)[1] == wanted, (line, host, answer[:80])


async def test_every_grpc_method_needs_the_key(closed: Called) -> None:
    """Whatever reflection lists, health alone left out; called raw, with no message that could be read first."""
    metadata = (("authorization", f"Bearer {KEY}"),)
    stub = reflection_pb2_grpc.ServerReflectionStub(closed.channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    listed = [answer async for answer in stub.ServerReflectionInfo(iter(requests), metadata=metadata)]
    names = [service.name for service in listed[0].list_services_response.service]
    methods: dict[str, bool] = {}
    for name in names:
        requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]
        found = [answer async for answer in stub.ServerReflectionInfo(iter(requests), metadata=metadata)]
        for data in found[0].file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            for service in file.service:
                if f"{file.package}.{service.name}" == name:
                    methods |= {f"/{name}/{method.name}": method.server_streaming for method in service.method}
    guarded = {name: streams for name, streams in methods.items() if "grpc.health" not in name}
    assert len(guarded) >= 14 and len(methods) > len(guarded)
    for given in ((), (("authorization", "Bearer key-one"),), (*metadata, *metadata), (("x-api-key", KEY),)):
        for name, streams in guarded.items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await raw_call(closed, name, streams, given)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, (name, given)


async def raw_call(called: Called, name: str, streams: bool, metadata: Any) -> None:
    """Call a method with bytes that are no message."""
    if streams:
        call = called.channel.unary_stream(name)(b"\xff", metadata=metadata)
        _ = [message async for message in call]
    else:
        await called.channel.unary_unary(name)(b"\xff", metadata=metadata)
