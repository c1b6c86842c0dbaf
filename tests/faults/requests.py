"""Scenarios of hostile requests: JSON that explodes, names that are paths or addresses, labels, log lines and errors.

Their rows are F27, F44, F47, F48 and F82 to F84. Each sends its corpus to a real server and looks at what that did.
"""

from __future__ import annotations

import itertools
import time
from typing import Any
from urllib.parse import quote

import httpx

from .audited import audited
from .inject import follow, gauge
from .lab import COMPLETIONS, MODEL, Lab, body, client

CHAT = "/v1/chat/completions"
TARGETS = ("etc/passwd", "proc/self/environ", "dev/zero", "root/.ssh/id_rsa", "windows/win.ini")
CLIMBS = ("../", "..\\", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%c0%af", "....//", ".%00./", "\u2025/", "\uff0e\uff0e/")
PREFIXES = ("", "/", "./", "~/", "//", "file:///", "\\\\host\\share\\", "m/", "base:")
STOP_TOKENS = 64
ODD = ("\0", ".", "..", "con", "nul", "m\0", "m\n", "a" * 4096, "m.", "m ", "-rf", "$(id)", "`id`", "{{7*7}}", "%s%n")
SCHEMES = ("http", "https", "ftp", "file", "gopher", "hf", "s3", "data", "jar:http", "HTTP")
HOSTS = (
    "127.0.0.1:9",
    "2130706433:9",
    "0x7f000001:9",
    "017700000001:9",
    "[::1]:9",
    "[::ffff:127.0.0.1]:9",
    "169.254.169.254",
)

KEY, TOKEN, WRONG = "sk-marked-0123456789abcdef", "hf_marked0123456789abcdef", "sk-wrong-0123456789abcdef"
PROMPT, FORGED = "a-marked-prompt", "FORGED"
FORGERIES = tuple(f"{end}{FORGED} 200 OK" for end in ("\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\x1b[31m", "\0"))


def paths() -> list[str]:
    """Ways to leave a folder, about a hundred."""
    made = (
        f"{prefix}{climb * depth}{target}"
        for prefix, climb, target in itertools.product(PREFIXES, CLIMBS, TARGETS)
        for depth in (1, 8)
    )
    return [*list(made)[::10], *ODD]


def addresses() -> list[str]:
    """Addresses that must not be asked, in many spellings."""
    return [f"{scheme}://{host}/x.png" for scheme, host in itertools.product(SCHEMES, HOSTS)]


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The error of a refusal in our one shape."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert len(answer.content) <= 8192
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error


async def stop_strings(lab: Lab) -> None:
    """Whatever part of a model's own text is the stop string, and wherever tokens divide it: the text ends exactly before it,
    and the stream adds up to the one-shot text."""
    server = lab.server()
    async with client(server) as http:
        words = body("once upon a time", max_tokens=STOP_TOKENS, ignore_eos=True)
        text = (await http.post(COMPLETIONS, json=words)).json()["choices"][0]["text"]
        parts = {text[at : at + size] for at in range(0, len(text) - 4, 7) for size in (1, 2, 4)}
        stops = sorted(part for part in parts if part.strip() and "\ufffd" not in part)
        assert len(stops) >= 10, text
        for stop in stops:
            expected = text[: text.index(stop)]
            whole = (await http.post(COMPLETIONS, json=words | {"stop": [stop]})).json()["choices"][0]
            assert (whole["text"], whole["finish_reason"]) == (expected, "stop"), stop
            streamed = await follow(http, COMPLETIONS, words | {"stop": [stop], "stream": True})
            assert streamed.done and streamed.text == expected, (stop, streamed)


async def names_open_no_files(lab: Lab) -> None:
    """Whatever a name looks like, it is looked up in a table: nothing is opened for it, and none of it is served."""
    with audited(lab, "--max-adapters", "2", "--allow-adapter-load") as watched:
        async with client(watched.server) as http:
            ask = body() | {"adapter_name": "none"}
            refused(await http.post(COMPLETIONS, json=ask), 400, 404)
            refused(await http.post("/v1/adapters/load", json={"adapter_name": "none"}), 400, 404)
            await http.get("/v1/models/none")
            watched.events("open")
            for name in paths():
                refused(await http.post(COMPLETIONS, json=body() | {"model": name}), 400, 404)
                refused(await http.post(COMPLETIONS, json=ask | {"adapter_name": name}), 400, 404)
                refused(await http.post("/v1/adapters/load", json={"adapter_name": name}), 400, 404)
                refused(await http.post("/v1/adapters/unload", json={"adapter_name": name}), 400, 404)
            opened = {one["what"][0] for one in watched.events("open")}
    home = str(lab.folder)
    assert [path for path in opened if "/proc/" not in path and home not in path] == []
    assert [path for path in opened if any(target in path for target in TARGETS)] == []


async def addresses_are_not_fetched(lab: Lab) -> None:
    """No field makes the server connect anywhere."""
    with audited(lab, "--max-adapters", "2", "--allow-adapter-load") as watched:
        async with client(watched.server) as http:
            watched.events()
            for address in addresses():
                image = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": address}}]
                chat = {"model": MODEL, "messages": [{"role": "user", "content": image}], "max_tokens": 1}
                refused(await http.post(CHAT, json=chat), 400)
                refused(await http.post(COMPLETIONS, json=body() | {"model": address}), 400, 404)
                refused(await http.post("/v1/adapters/load", json={"adapter_name": address}), 400, 404)
            assert watched.events("socket.connect", "socket.getaddrinfo") == []


async def deep_and_wide(lab: Lab) -> None:
    """Nesting, key counts and digits that explode are refused at once, and nobody waits meanwhile."""
    server = lab.server()
    bodies = {
        f"depth {depth}": b'{"model":' + b"[" * depth + b"]" * depth + b"}" for depth in (65, 1000, 100_000, 1_000_000)
    }
    bodies["objects"] = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    bodies["open brackets"] = b"[" * 1_000_000
    bodies["keys"] = b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}"
    bodies["digits"] = b'{"model":"m","prompt":"a","max_tokens":' + b"9" * 5000 + b"}"
    async with client(server) as http:
        for name, data in bodies.items():
            began = time.monotonic()
            answer = await http.post(COMPLETIONS, content=data, headers={"content-type": "application/json"})
            refused(answer, 400)
            assert time.monotonic() - began < 10, name
            assert (await http.get("/livez")).status_code == 200


async def errors_stay_small(lab: Lab) -> None:
    """However many faults a body has, the answer is a few kilobytes."""
    server = lab.server()
    items = 2000
    bad: list[dict[str, Any]] = [
        body() | {"stop": [1] * items},
        body() | {"logit_bias": {f"x{number}": "y" for number in range(items)}},
        body() | {f"unknown{number}": number for number in range(items)} | {"max_tokens": 0},
        body() | {"prompt": [["a"]] * items},
        {"model": MODEL, "messages": [1] * items},
        {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "x" * 1000}] * items}]},
        body() | {"model": "x" * 100_000},
    ]
    async with client(server) as http:
        for one in bad:
            answer = await http.post(CHAT if "messages" in one else COMPLETIONS, json=one)
            refused(answer, 400, 404)
            assert sum(len(name) + len(value) for name, value in answer.headers.items()) < 8192


async def labels_do_not_multiply(lab: Lab) -> None:
    """Whatever models, routes, users and adapters requests name, /metrics has as many series as before."""
    server = lab.server()
    async with client(server) as http:
        for number in range(20):  # whatever a request can count is there
            await strange(http, number)
        await http.get("/metrics")  # which is counted itself, and shown from the next one on
        before = len((await http.get("/metrics")).text.splitlines())
        for number in range(20, 140):
            await strange(http, number)
        assert len((await http.get("/metrics")).text.splitlines()) == before
    assert await gauge(server, "openllm_requests_running") == 0


async def nothing_leaks(lab: Lab) -> None:
    """Keys, tokens and prompts stand in no line of the log, and no request can write a line of its own into it."""
    environ = {"OPENLLM_API_KEY": KEY, "HF_TOKEN": TOKEN}
    with lab.own("--debug", environ=environ) as server:
        async with client(server) as http:
            http.headers["authorization"] = f"Bearer {KEY}"
            for forged in FORGERIES:
                answer = await http.post(COMPLETIONS, json=body(f"{PROMPT}{forged}", max_tokens=4) | {"user": forged})
                assert answer.status_code == 200
                refused(await http.post(COMPLETIONS, json=body(PROMPT) | {"model": forged}), 400, 404)
                refused(await http.get(f"/nowhere/{quote(forged)}?key={KEY}"), 404)
            refused(
                await http.get(f"/nowhere/{KEY}/{TOKEN}"), 404
            )  # a client that puts its key where it does not belong
            wrong = await http.get("/v1/models", headers={"authorization": f"Bearer {WRONG}"})
            refused(wrong, 401)
            assert WRONG not in wrong.text
    log = server.log.read_text(encoding="utf-8")
    assert "/nowhere/" in log or "404" in log  # requests are logged at all
    assert [mark for mark in (KEY, TOKEN, WRONG, PROMPT) if mark in log] == []
    assert [line for line in log.splitlines() if line.startswith(FORGED)] == []
    assert "\x1b[31m" not in log


async def strange(http: httpx.AsyncClient, number: int) -> None:
    """One request of each kind whose names nobody has ever used."""
    await http.get(f"/nowhere/{number}")
    await http.post(COMPLETIONS, json=body() | {"model": f"model-{number}"})
    await http.post(COMPLETIONS, json=body(max_tokens=1) | {"user": f"user-{number}"})
    await http.post(COMPLETIONS, json=body() | {"adapter_name": f"adapter-{number}"})
    await http.request(f"METHOD{number}", "/v1/models")
