"""Who may ask: keys, Host names, CORS, public addresses."""

from __future__ import annotations

import httpx
import pytest
from tests.openllm.server.serving import OPEN, serving

from openllm.access import check_access, is_loopback
from openllm.compose import build
from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.options import EngineOptions, ServerOptions

KEYS = ("key-One", "key-Two")


async def test_every_route_but_the_open_ones_needs_a_key() -> None:
    """With keys set, only liveness, readiness and the page's constant files are open; a refusal says how."""
    async with serving(options={"api_key": KEYS}, reply="x") as served:
        paths = (await served.http.get("/openapi.json", headers={"authorization": "Bearer key-One"})).json()["paths"]
        opened = set()
        for path, item in paths.items():
            for method in item:
                answer = await served.http.request(method, path)
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.json()["error"]["code"] == "invalid_api_key"
                else:
                    opened.add(path)
        assert opened == OPEN
        for path in (
            "/v1",
            "/nothing",
            "/chat/",
            "http://127.0.0.1//livez",
            "/livez/",
            "/livez%3f",
            "/v1/..%2flivez",
            "/docs/../v1/models",
        ):
            assert (await served.http.get(path)).status_code == 401, path


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ([("authorization", "Bearer key-One")], True),
        ([("authorization", "bearer key-Two")], True),
        ([("authorization", "Bearer key-one")], False),
        ([("authorization", "Bearer key-On")], False),
        ([("authorization", "Bearer key-OneX")], False),
        ([("authorization", "Bearer ")], False),
        ([("authorization", "Basic key-One")], False),
        ([("authorization", "key-One")], False),
        ([("authorization", "Bearer key-One"), ("authorization", "Bearer key-One")], False),
        ([("authorization", "Bearer \xff\xfe")], False),
        ([], False),
    ],
)
async def test_keys(headers: list[tuple[str, str]], allowed: bool) -> None:
    """Exactly one bearer header with exactly one of the keys, case and all."""
    async with serving(ready=False, options={"api_key": KEYS}) as served:
        encoded = [(name, value.encode("latin-1")) for name, value in headers]
        answer = await served.http.get("/v1/models", headers=encoded)
        assert answer.status_code == (200 if allowed else 401)


async def test_a_bare_options_needs_a_key_and_a_preflight_does_not() -> None:
    """With CORS asked for, a real preflight is answered; without an Origin it is an ordinary request."""
    async with serving(ready=False, options={"api_key": KEYS, "cors": ("*",)}) as served:
        asked = {"origin": "https://page.test", "access-control-request-method": "POST"}
        answer = await served.http.options("/v1/models", headers=asked)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
        assert (await served.http.options("/v1/models")).status_code == 401
        simple = await served.http.get("/livez", headers={"origin": "https://page.test"})
        assert simple.headers["access-control-allow-origin"] == "*"
        assert "x-request-id" in simple.headers["access-control-expose-headers"]


async def test_cors_for_any_origin_allows_no_credentials() -> None:
    """A page may read answers and refusals alike; nothing says that a browser's cookies may come along."""
    async with serving(ready=False, options={"api_key": KEYS, "cors": ("*",)}) as served:
        for headers in ({}, {"authorization": "Bearer key-One"}):
            for path in ("/v1/models", "/livez", "/nothing"):
                answer = await served.http.get(path, headers={"origin": "https://page.test", **headers})
                assert answer.headers["access-control-allow-origin"] == "*", (path, headers)
                assert "access-control-allow-credentials" not in answer.headers and "vary" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.test", True),
        ("HTTPS://APP.TEST", True),
        ("http://localhost:5173", True),
        ("tauri://localhost", True),
        ("https://app.test:8443", False),
        ("http://app.test", False),
        ("https://app.test.evil.test", False),
        ("https://evil.test", False),
        ("null", False),
        ("", False),
    ],
)
async def test_cors_for_some_origins(origin: str, allowed: bool) -> None:
    """Only those that were named are answered by name; caches are told that it depends; the others' preflights are refused."""
    named = ("https://app.test:443/", "http://LOCALHOST:5173", "tauri://localhost")
    async with serving(ready=False, options={"api_key": KEYS, "cors": named}) as served:
        for headers in ({}, {"authorization": "Bearer key-One"}):
            answer = await served.http.get("/v1/models", headers={"origin": origin, **headers})
            assert answer.headers.get("access-control-allow-origin") == (origin.lower() if allowed else None)
            assert answer.headers["vary"] == "Origin" and "access-control-allow-credentials" not in answer.headers
        asked = {"origin": origin, "access-control-request-method": "POST"}
        answer = await served.http.options("/v1/models", headers=asked)
        assert answer.headers.get("access-control-allow-origin") == (origin.lower() if allowed else None)
        assert answer.headers["x-request-id"]
        if allowed:
            assert answer.status_code == 200 and "POST" in answer.headers["access-control-allow-methods"]
        else:
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden_origin"


@pytest.mark.parametrize("text", ["app.test", "https://app.test/path", "https://a b", "null", "https://*.app.test"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    """Before anything is loaded, with an example."""
    with pytest.raises(InvalidSetting, match="no origin") as refused:
        check_access(ServerOptions(cors=(text,)))
    assert refused.value.exit_code == 78 and "https://app.example.com" in (refused.value.hint or "")


async def test_a_page_cannot_post_without_a_preflight() -> None:
    """What a form can send across origins is no JSON: 415 on every route that reads a body."""
    async with serving(options={"cors": ("*",)}, reply="x") as served:
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/generate", "/v1/embeddings", "/v1/adapters"):
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                headers = {"origin": "https://page.test", "content-type": kind}
                answer = await served.http.post(path, content=b'{"model":"echo","prompt":"x"}', headers=headers)
                assert answer.status_code == 415, (path, kind)


async def test_cors_is_off_until_asked_for() -> None:
    """No CORS header ever, preflights included."""
    async with serving(reply="x") as served:
        asked = {"origin": "https://page.test", "access-control-request-method": "POST"}
        for answer in (
            await served.http.options("/v1/models", headers=asked),
            await served.http.get("/v1/models", headers=asked),
            await served.http.post("/v1/completions", json={"model": "echo", "prompt": "p"}, headers=asked),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:3000", 200),
        ("localhost:8", 200),
        ("LOCALHOST", 200),
        ("[::1]:3000", 200),
        ("127.0.0.2:3000", 200),
        ("evil.test", 403),
        ("[::2]", 403),
        ("localhost.", 403),
        ("127.1", 403),
        ("2130706433", 403),
        ("0.0.0.0", 403),
        ("192.168.0.1", 403),
        ("127.0.0.1.evil.test", 403),
        ("localhost.evil.test:3000", 403),
        ("127.0.0.1@evil.test", 403),
        ("", 403),
    ],
)
async def test_host_names_on_loopback(host: str, status: int) -> None:
    """On a loopback address only this machine's names are answered, so a page cannot rebind its own name to us."""
    async with serving(ready=False) as served:
        answer = await served.http.get("/livez", headers={"host": host})
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["error"]["code"] == "forbidden_host"


async def test_other_addresses_take_any_host_name() -> None:
    """A public address is reached by names we cannot know."""
    async with serving(ready=False, options={"host": "0.0.0.0", "no_auth": True}) as served:
        assert (await served.http.get("/livez", headers={"host": "model.example"})).status_code == 200


def test_loopback_addresses() -> None:
    """What only this machine can reach."""
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.test", "")))


def test_a_public_address_needs_a_key_or_a_word() -> None:
    """Without a key a public address is refused, and the message names both ways out."""
    with pytest.raises(UnsafeConfiguration) as refused:
        check_access(ServerOptions(host="0.0.0.0"))
    assert refused.value.exit_code == 78 and refused.value.hint is not None
    assert "OPENLLM_API_KEY" in refused.value.hint and "--no-auth" in refused.value.hint
    for options in (
        ServerOptions(),
        ServerOptions(host="0.0.0.0", no_auth=True),
        ServerOptions(host="::", api_key=("k",)),
    ):
        check_access(options)


async def test_request_ids() -> None:
    """A caller's own id comes back if it is plain; anything else gets a fresh one."""
    async with serving(ready=False) as served:
        assert (await served.http.get("/livez", headers={"x-request-id": "a-1.b_2"})).headers[
            "x-request-id"
        ] == "a-1.b_2"
        for given in ("a" * 65, "a b", "a\tb", "<x>"):
            answer = await served.http.get("/livez", headers={"x-request-id": given})
            assert len(answer.headers["x-request-id"]) == 32
        ids = {(await served.http.get("/livez")).headers["x-request-id"] for _ in range(20)}
        assert len(ids) == 20


async def test_a_bug_answers_500_with_the_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception becomes the one shape; its text is in the log, under the id, and nowhere else."""
    async with serving(ready=False) as served:

        def broken() -> None:
            raise ZeroDivisionError("secret detail")

        served.composed.service.models = broken  # type: ignore[method-assign,assignment]
        answer = await served.http.get("/v1/models")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text and answer.headers["x-request-id"] in answer.text
    assert "secret detail" in caplog.text and answer.headers["x-request-id"] in caplog.text
    assert isinstance(answer, httpx.Response)


@pytest.mark.parametrize(
    ("peer", "host", "path", "status"),
    [
        ("127.0.0.1", "localhost:3000", "/v1/models", 200),
        ("::1", "[::1]:3000", "/v1/models", 200),
        ("127.0.0.1", "evil.test", "/v1/models", 403),
        ("10.0.0.7", "localhost", "/v1/models", 403),
        ("10.0.0.7", "10.0.0.1:3000", "/metrics", 403),
        ("10.0.0.7", "10.0.0.1:3000", "/livez", 200),
    ],
)
async def test_where_another_program_listens_a_server_without_key_answers_its_own_machine(
    peer: str, host: str, path: str, status: int
) -> None:
    """Whatever the address, without a key others get nothing but whether the process lives; pages cannot rebind either."""
    app = build(EngineOptions(backend="echo"), ServerOptions(), loopback_only=True).app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 5)), base_url="http://x") as http:
        answer = await http.get(path, headers={"host": host})
    assert answer.status_code == status
    if peer == "10.0.0.7" and status == 403:
        assert answer.json()["error"]["code"] == "forbidden_peer"
        assert "OPENLLM_API_KEY" in answer.json()["error"]["message"]
