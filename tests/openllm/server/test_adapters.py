"""`/v1/adapters` and what `adapter_name` and `model` mean, over the echo backend, which says the adapter's own word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.openllm.server.serving import URL, chat_body, text_body
from tests.tiny_adapters import blank_adapter

from openllm.chat import ChatRenderer
from openllm.compose import build
from openllm.engine.supervisor import launch_embedded
from openllm.serialisation.adapters import AdapterStore
from openllm_core.errors import AdapterIncompatible, InvalidSetting
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions


@asynccontextmanager
async def serving(
    home: Path, *ids: str, script: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **engine: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An app with adapters, called without a socket."""
    options = EngineOptions(backend="echo", adapter_id=ids, engine_arg=script or {}, **engine)
    composed = build(
        options, ServerOptions(**(server or {})), launch=launch_embedded, store=StoreOptions(home=str(home))
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(composed.app), base_url=URL) as http:
        await composed.engine.start()
        try:
            await composed.engine.wait_ready(30)
            yield http
        finally:
            await composed.service.aclose()


def word(folder: Path, text: str) -> str:
    """A sound adapter of which the echo backend says `text`."""
    return str(blank_adapter(folder, echo=text))


async def said(http: httpx.AsyncClient, **body: Any) -> str:
    """What `/v1/generate` answers."""
    answer = await http.post("/v1/generate", json={"prompt": "hi", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["responses"][0]


async def test_each_request_chooses(tmp_path: Path) -> None:
    """By `adapter_name`, or by `model` on OpenAI's routes, whose bare name is the bare base; the answer says who it was."""
    ids = [f"{word(tmp_path / 'a', 'AAA')}:alpha", f"{word(tmp_path / 'b', 'BBB')}:beta"]
    async with serving(tmp_path, *ids) as http:
        assert await said(http) == "AAA"  # none is unnamed, so the first is the default
        assert await said(http, adapter_name="beta") == "BBB"
        assert await said(http, adapter_name="base") == "hi"
        generated = await http.post("/v1/generate", json={"prompt": "hi", "adapter_name": "beta"})
        assert generated.headers["x-openllm-adapter"] == "beta"
        bare = await http.post("/v1/generate", json={"prompt": "hi", "adapter_name": "base"})
        assert "x-openllm-adapter" not in bare.headers
        for body, text, model in (
            (text_body(), "hi", "echo"),
            (text_body(adapter_name="beta"), "BBB", "beta"),
            (text_body() | {"model": "alpha"}, "AAA", "alpha"),
            (text_body(adapter_name="default"), "AAA", "alpha"),
        ):
            answer = (await http.post("/v1/completions", json=body)).json()
            assert (answer["choices"][0]["text"], answer["model"]) == (text, model)
        reply = await http.post("/v1/chat/completions", json=chat_body() | {"model": "beta"})
        assert reply.status_code == 200, reply.text
        chat = reply.json()
        assert (chat["choices"][0]["message"]["content"], chat["model"]) == ("BBB", "beta")
        cards = {card["id"]: card for card in (await http.get("/v1/models")).json()["data"]}
        assert list(cards) == ["echo", "alpha", "beta"]
        assert cards["beta"]["root"] == "echo"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/generate", {"prompt": "hi", "adapter_name": "nobody"}, 404, "adapter_not_found"),
        ("/v1/generate_stream", {"prompt": "hi", "adapter_name": "../etc"}, 404, "adapter_not_found"),
        ("/v1/completions", text_body(adapter_name="nobody"), 404, "adapter_not_found"),
        ("/v1/completions", text_body() | {"model": "nobody"}, 404, "model_not_found"),
        ("/v1/completions", text_body() | {"model": "alpha", "adapter_name": "base"}, 400, "invalid_value"),
        ("/v1/adapters", {"adapter_name": "nobody"}, 404, "adapter_not_found"),
    ],
)
async def test_what_is_not_there(path: str, body: dict[str, Any], status: int, code: str, tmp_path: Path) -> None:
    """404 that names the field; two names at once are 400."""
    async with serving(tmp_path, f"{word(tmp_path / 'a', 'AAA')}:alpha") as http:
        answer = await http.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        if code == "adapter_not_found":
            assert repr(body["adapter_name"]) in answer.json()["error"]["message"]


async def test_the_default_is_switched(tmp_path: Path) -> None:
    """The unnamed adapter is `default`; POST takes JSON or a bare name and tells the state after it; `base` is none."""
    ids = [f"{word(tmp_path / 'a', 'AAA')}:alpha", word(tmp_path / "b", "BBB")]
    async with serving(tmp_path, *ids) as http:
        before = (await http.get("/v1/adapters")).json()
        assert (before["success"], before["error_msg"], before["default"]) == (True, "", "default")
        assert before["result"]["alpha"]["peft_type"] == "LORA"
        assert [(card["name"], card["state"]) for card in before["adapters"]] == [
            ("alpha", "ready"), ("default", "ready"),
        ]  # fmt: skip
        assert await said(http) == "BBB"
        assert (await http.post("/v1/adapters", json={"adapter_name": "alpha"})).json()["default"] == "alpha"
        assert await said(http) == "AAA"
        assert await said(http, adapter_name="default") == "BBB"  # a name is a name
        assert (await http.post("/v1/adapters", content=b"base")).json()["default"] is None
        assert await said(http) == "hi"
        page = await http.post("/v1/adapters", content=b"alpha", headers={"origin": "http://evil.example"})
        assert page.status_code == 415  # a web page may send this without asking


@pytest.mark.parametrize("name", ["", " ", "z" * 200, "z" * 256, "z" * 257, "z" * 100_000])
async def test_a_name_that_nobody_has_is_not_repeated_at_length(name: str, tmp_path: Path) -> None:
    """Empty or endless, on every route that takes a name: refused by its field, with at most 200 characters of it."""
    given, options = f"{word(tmp_path / 'a', 'AAA')}:alpha", {"allow_adapter_load": True}
    async with serving(tmp_path, given, server=options, max_adapters=2) as http:
        for path, field, body in (
            ("/v1/completions", "model", text_body()),
            ("/v1/completions", "adapter_name", text_body()),
            ("/v1/chat/completions", "model", chat_body()),
            ("/v1/chat/completions", "adapter_name", chat_body(stream=True)),
            ("/v1/generate", "adapter_name", {"prompt": "hi"}),
            ("/v1/generate_stream", "adapter_name", {"prompt": "hi"}),
            ("/v1/adapters", "adapter_name", {}),
            ("/v1/adapters/load", "adapter_name", {}),
            ("/v1/adapters/unload", "adapter_name", {}),
        ):
            answer = await http.post(path, json=body | {field: name})
            if not name and field == "adapter_name" and not path.startswith("/v1/adapters"):
                assert answer.status_code == 200  # as if it were not there: the default is meant
                continue
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) in ((400, field), (404, field)), (path, field, answer.text)
            assert "z" * 201 not in answer.text and len(answer.content) < 1000, (path, field)
        answer = await http.get(f"/v1/models/{name[:5000]}x")
        assert answer.status_code == 404 and "z" * 201 not in answer.text
        assert await said(http) == "AAA"


async def test_an_admitted_request_keeps_its_adapter(tmp_path: Path) -> None:
    """Neither a new default nor an unloading, nor a new version under the name, changes what was admitted before."""
    store = AdapterStore(StoreOptions(home=str(tmp_path)))
    store.add("alpha", blank_adapter(tmp_path / "a", echo="A" * 30), "a")
    store.add("beta", blank_adapter(tmp_path / "b", echo="BBB"), "b")
    options, long = {"allow_adapter_load": True}, {"max_new_tokens": 40}
    async with serving(tmp_path, "alpha", "beta:beta", script={"step_s": 0.01}, server=options, max_adapters=2) as http:
        running = asyncio.create_task(said(http, llm_config=long))
        waiting = asyncio.create_task(said(http, adapter_name="default", llm_config=long))
        await asyncio.sleep(0.05)
        assert (await http.post("/v1/adapters", json={"adapter_name": "beta"})).status_code == 200
        assert await said(http) == "BBB"
        assert (await http.post("/v1/adapters/unload", json={"adapter_name": "default"})).status_code == 200
        gone = await http.post("/v1/generate", json={"prompt": "hi", "adapter_name": "alpha"})
        assert gone.status_code == 404
        store.add("beta", blank_adapter(tmp_path / "b2", echo="NEW"), "b2")
        assert await said(http) == "BBB"  # a store that changed changes no server by itself
        assert (await http.post("/v1/adapters/load", json={"adapter_name": "beta"})).status_code == 200
        assert await said(http) == "NEW"
        assert await running == "A" * 30 and await waiting == "A" * 30


async def test_loading_is_by_name_and_kept_for_the_next_start(tmp_path: Path) -> None:
    """A stored adapter is served at once and after a restart; one that was unloaded is not; never more than allowed."""
    store = AdapterStore(StoreOptions(home=str(tmp_path / "store")))
    for name in ("one", "two", "three"):
        store.add(name, blank_adapter(tmp_path / name, echo=name.upper()), name)
    options = {"allow_adapter_load": True}

    async def load(http: httpx.AsyncClient, name: str, verb: str = "load") -> httpx.Response:
        return await http.post(f"/v1/adapters/{verb}", json={"adapter_name": name})

    async with serving(tmp_path / "store", server=options, max_adapters=2) as http:
        assert (await http.get("/v1/adapters")).json()["adapters"] == []
        assert (await load(http, "one")).status_code == 200
        assert (await load(http, "two")).json()["adapters"][1]["name"] == "two"
        assert await said(http, adapter_name="two") == "TWO"
        full = await load(http, "three")
        assert full.status_code == 400 and "--max-adapters" in full.json()["error"]["message"]
        for bad in (str(tmp_path / "three"), "../three", "http://evil.example/x", "file:///etc", "", "nobody", "a\0b"):
            refused = await load(http, bad)
            assert refused.status_code in (400, 404), bad
            assert bad[:20] not in refused.text or bad in ("", "nobody") or len(refused.text) < 400
        assert (await load(http, "one", "unload")).status_code == 200
    async with serving(tmp_path / "store", server=options, max_adapters=2) as http:
        assert [card["name"] for card in (await http.get("/v1/adapters")).json()["adapters"]] == ["two"]
        assert await said(http, adapter_name="two") == "TWO"
        assert await said(http) == "hi"


async def test_what_others_loaded_or_a_start_passed_over_stays_kept(tmp_path: Path) -> None:
    """A second server of the model forgets nothing of the first; what there is no place for is told, and served again later."""
    store = AdapterStore(StoreOptions(home=str(tmp_path / "store")))
    for name in ("one", "two", "three"):
        store.add(name, blank_adapter(tmp_path / name, echo=name.upper()), name)
    options = {"allow_adapter_load": True}

    async def change(http: httpx.AsyncClient, verb: str, name: str) -> None:
        answer = await http.post(f"/v1/adapters/{verb}", json={"adapter_name": name})
        assert answer.status_code == 200, answer.text

    async def served(most: int) -> list[str]:
        async with serving(tmp_path / "store", server=options, max_adapters=most) as http:
            return [card["name"] for card in (await http.get("/v1/adapters")).json()["adapters"]]

    async with (
        serving(tmp_path / "store", server=options, max_adapters=3) as first,
        serving(tmp_path / "store", server=options, max_adapters=3) as second,
    ):
        await change(first, "load", "one")
        await change(second, "load", "two")
        await change(first, "load", "three")
    assert await served(3) == ["one", "two", "three"]
    composed = build(
        EngineOptions(backend="echo", max_adapters=1),
        ServerOptions(),
        launch=launch_embedded,
        store=StoreOptions(home=str(tmp_path / "store")),
    )
    assert [note for note in composed.notes if "adapter" in note] == [
        "ignored: adapter two: no more than --max-adapters 1",
        "ignored: adapter three: no more than --max-adapters 1",
    ]
    async with serving(tmp_path / "store", server=options, max_adapters=1) as http:
        await change(http, "unload", "one")
        await change(http, "load", "three")
    assert await served(3) == ["two", "three"]


async def test_a_replaced_adapter_that_was_given_is_told(tmp_path: Path) -> None:
    """What --adapter-id gives is served again after a start, not what took its place meanwhile, and the start says so."""
    first, second = word(tmp_path / "v1", "ONE"), word(tmp_path / "v2", "TWO")
    home, options = StoreOptions(home=str(tmp_path / "store")), {"allow_adapter_load": True}

    def notes(*ids: str) -> list[str]:
        asked = EngineOptions(backend="echo", adapter_id=ids)
        composed = build(asked, ServerOptions(), launch=launch_embedded, store=home)
        return [note for note in composed.notes if "adapter" in note]

    for folder, text in ((first, "ONE"), (second, "TWO")):
        AdapterStore(home).add("clerk", Path(folder), folder)
        async with serving(tmp_path / "store", f"{first}:clerk", server=options) as http:
            answer = await http.post("/v1/adapters/load", json={"adapter_name": "clerk"})
            assert answer.status_code == 200 and await said(http) == text
        assert len(notes(f"{first}:clerk")) == (text == "TWO")
    (note,) = notes(f"{first}:clerk")
    assert "adapter clerk" in note and "--adapter-id clerk:clerk" in note
    async with serving(tmp_path / "store", f"{first}:clerk", server=options) as http:
        assert await said(http) == "ONE"
    async with serving(tmp_path / "store", "clerk:clerk", server=options) as http:
        assert await said(http) == "TWO"
    assert notes("clerk:clerk") == notes(f"{second}:clerk") == []


async def test_a_chat_outlives_a_reload_while_it_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is served throughout, so nobody is told that it is not there; the new version answers."""
    store = AdapterStore(StoreOptions(home=str(tmp_path)))
    store.add("beta", blank_adapter(tmp_path / "b", echo="BBB"), "b")
    render = ChatRenderer.render

    async def slow(self: ChatRenderer, *arguments: Any, **variables: Any) -> str:
        await asyncio.sleep(0.6)
        return await render(self, *arguments, **variables)

    monkeypatch.setattr(ChatRenderer, "render", slow)
    async with serving(tmp_path, "beta:beta", server={"allow_adapter_load": True}, max_adapters=2) as http:
        asked = asyncio.create_task(http.post("/v1/chat/completions", json=chat_body() | {"model": "beta"}))
        await asyncio.sleep(0.05)
        store.add("beta", blank_adapter(tmp_path / "b2", echo="NEW"), "b2")
        assert (await http.post("/v1/adapters/load", json={"adapter_name": "beta"})).status_code == 200
        await asyncio.sleep(0.05)
        assert not asked.done()
        answer = await asked
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "NEW"


async def test_a_damaged_adapter_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    """Its files are compared with their hashes at each loading."""
    store = AdapterStore(StoreOptions(home=str(tmp_path / "store")))
    entry = store.add("one", blank_adapter(tmp_path / "one"), "one")
    weights = entry.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    given = f"{word(tmp_path / 'a', 'AAA')}:alpha"
    async with serving(tmp_path / "store", given, server={"allow_adapter_load": True}, max_adapters=4) as http:
        refused = await http.post("/v1/adapters/load", json={"adapter_name": "one"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "adapter_incompatible")
        assert await said(http) == "AAA"


async def test_without_adapters_every_route_says_so(tmp_path: Path) -> None:
    """400 `adapters_disabled`, with the flags that would change it."""
    async with serving(tmp_path, server={"allow_adapter_load": True}) as http:
        for method, path in (("GET", ""), ("POST", ""), ("POST", "/load"), ("POST", "/unload")):
            answer = await http.request(method, f"/v1/adapters{path}", json={"adapter_name": "x"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "adapters_disabled")
            assert "--adapter-id" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "sent", "look", "switch", "load"),
    [
        ({}, "", 200, 200, 403),  # no key at all; loading is off
        ({"allow_adapter_load": True}, "", 200, 200, 200),
        ({"admin_key": "boss"}, "", 200, 403, 403),
        ({"api_key": ("user",)}, "user", 200, 403, 403),  # nobody may change anything
        ({"api_key": ("user",), "admin_key": "boss", "allow_adapter_load": True}, "user", 200, 403, 403),
        ({"api_key": ("user",), "admin_key": "boss", "allow_adapter_load": True}, "boss", 200, 200, 200),
        ({"api_key": ("user",), "admin_key": "boss"}, "boss", 200, 200, 403),
        ({"api_key": ("user",), "admin_key": "boss"}, "other", 401, 401, 401),
    ],
)
async def test_who_may_change_what(
    options: dict[str, Any], sent: str, look: int, switch: int, load: int, tmp_path: Path
) -> None:
    """Once there is any key, changes need the admin key; loading is off until the operator says otherwise."""
    AdapterStore(StoreOptions(home=str(tmp_path))).add("one", blank_adapter(tmp_path / "one"), "one")
    given = f"{word(tmp_path / 'a', 'AAA')}:alpha"
    async with serving(tmp_path, given, server=options, max_adapters=2) as http:
        headers = {"authorization": f"Bearer {sent}"} if sent else {}
        found = [
            (await http.get("/v1/adapters", headers=headers)).status_code,
            (await http.post("/v1/adapters", json={"adapter_name": "alpha"}, headers=headers)).status_code,
            (await http.post("/v1/adapters/load", json={"adapter_name": "one"}, headers=headers)).status_code,
        ]
        assert found == [look, switch, load]


def test_what_a_start_refuses(tmp_path: Path) -> None:
    """Before anything is loaded: two without a name, a name that is taken, malformed or reserved, a folder that is none."""
    a, b = word(tmp_path / "a", "A"), word(tmp_path / "b", "B")

    def start(*ids: str, **engine: Any) -> None:
        options = EngineOptions(backend="echo", adapter_id=ids, **engine)
        build(options, ServerOptions(), launch=launch_embedded, store=StoreOptions(home=str(tmp_path)))

    for ids, word_ in (
        ((a, b), "Only one adapter can be set as default"),
        ((f"{a}:x", f"{b}:x"), "'x' is taken"),
        ((f"{a}:echo",), "taken by the model"),
        ((f"{a}:base",), "no name for an adapter"),
        ((f"{a}:../x",), "no name for an adapter"),
    ):
        with pytest.raises(InvalidSetting, match=word_):
            start(*ids)
    with pytest.raises(InvalidSetting, match="--max-adapters allows 1"):
        start(f"{a}:x", f"{b}:y", max_adapters=1)
    with pytest.raises(AdapterIncompatible, match="There is no adapter"):
        start(str(tmp_path / "nowhere"))
    start(f"{a}:x", f"{a}:y")  # one id under two names is two adapters
