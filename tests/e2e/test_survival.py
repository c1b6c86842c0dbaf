"""Real processes die, clients leave, the operator stops the server: the rest goes on, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from .conftest import openllm_start

pytestmark = pytest.mark.timeout(420)

LONG = {
    "messages": [{"role": "user", "content": "Tell me a very long story."}],
    "max_tokens": 1500,
    "temperature": 0,
    "stream": True,
    "ignore_eos": True,
}


@pytest.fixture
def started(store, tmp_path):
    """A server of the test's own, which it may break."""
    with openllm_start(tmp_path / "log.txt", "--backend", "pt", environ=store) as running:
        yield running


def body_for(server) -> dict:
    """A long stream on the served model."""
    return LONG | {"model": httpx.get(server.url + "/v1/models", timeout=60).json()["data"][0]["id"]}


def test_killed_host_ends_the_stream_with_an_error_and_is_restarted(started):
    """kill -9 of the engine host mid-stream: error frame, no [DONE], readyz 503, then ready again; the server lives."""
    lines: list[str] = []
    with httpx.stream("POST", started.url + "/v1/chat/completions", json=body_for(started), timeout=240) as response:
        for line in filter(None, response.iter_lines()):
            lines.append(line)
            if len(lines) == 5:
                os.kill(started.host_pid(), signal.SIGKILL)
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert "data: [DONE]" not in lines
    assert started.status() == 503
    started.wait_for(200)
    assert started.process.poll() is None
    again = httpx.post(
        started.url + "/v1/chat/completions", json=body_for(started) | {"stream": False, "max_tokens": 4}, timeout=240
    )
    assert again.status_code == 200


def test_client_that_leaves_frees_its_slot(server):
    """A disconnect mid-stream aborts the sequence; no other request notices."""
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body_for(server), timeout=240) as response:
        for number, _ in enumerate(response.iter_lines()):
            if number == 6:
                assert server.metric("openllm_requests_running") >= 1
                break
    end = time.monotonic() + 10
    while server.metric("openllm_requests_running") and time.monotonic() < end:
        time.sleep(0.02)
    assert server.metric("openllm_requests_running") == 0


def test_thirty_two_streams_at_once_answer_as_if_alone(server):
    """Thirty-two clients share the batch; each gets what it gets alone (a near-tie may fall otherwise in a few)."""
    body = body_for(server) | {"max_tokens": 8, "stream": False}

    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"Tell me a fact about the number {number}."}]
        reply = httpx.post(server.url + "/v1/chat/completions", json=body | {"messages": messages}, timeout=120).json()
        assert reply["usage"]["completion_tokens"] == 8
        return reply["choices"][0]["message"]["content"]

    alone = [ask(number) for number in range(32)]
    with ThreadPoolExecutor(32) as clients:
        together = list(clients.map(ask, range(32)))
    assert len(set(together)) > 16
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 30


def test_sigterm_tells_the_streams_and_exits_cleanly(store, tmp_path):
    """SIGTERM while a stream outlives the grace: it gets an error frame, the exit code is 0, no process is left."""
    with openllm_start(tmp_path / "log.txt", "--backend", "pt", "--drain-grace", "1", environ=store) as started:
        host = started.host_pid()
        lines: list[str] = []
        with httpx.stream(
            "POST", started.url + "/v1/chat/completions", json=body_for(started), timeout=240
        ) as response:
            for line in filter(None, response.iter_lines()):
                lines.append(line)
                if len(lines) == 3:
                    started.process.send_signal(signal.SIGTERM)
        assert "error" in json.loads(lines[-1].removeprefix("data: "))
        assert started.process.wait(60) == 0
        assert not psutil.pid_exists(host)


def test_killed_server_takes_its_host_along(store, tmp_path):
    """kill -9 of the server: the engine host is gone within a second."""
    with openllm_start(tmp_path / "log.txt", "--backend", "pt", environ=store) as started:
        host = psutil.Process(started.host_pid())
        started.process.kill()
        started.process.wait()
        _, alive = psutil.wait_procs([host], timeout=2)
        assert not alive


def test_two_engines_are_killed_in_turns_and_somebody_always_answers(store, tmp_path):
    """With --engines 2 either may be killed: its streams end with an error, the other answers meanwhile, both come back."""
    with openllm_start(tmp_path / "log.txt", "--backend", "pt", "--engines", "2", environ=store) as started:
        chat, body = started.url + "/v1/chat/completions", body_for(started)
        for victim in (0, 1):
            wait_for_engines(started, 2)
            hosts = sorted(started.host_pids())
            with (
                httpx.stream("POST", chat, json=body, timeout=240) as one,
                httpx.stream("POST", chat, json=body, timeout=240) as other,
            ):
                streams = [filter(None, one.iter_lines()), filter(None, other.iter_lines())]
                for lines in streams:  # least busy first: one on each engine
                    assert next(lines).startswith("data: ")
                os.kill(hosts[victim], signal.SIGKILL)
                answer = httpx.post(chat, json=body | {"stream": False, "max_tokens": 4}, timeout=240)
                assert answer.status_code == 200
                assert started.status() == 200
                lasts = [last_before_long(lines) for lines in streams]
            errors = [last for last in lasts if '"error"' in last]
            assert len(errors) == 1
            assert "engine_unavailable" in errors[0]
        wait_for_engines(started, 2)
        assert started.metric("openllm_engine_restarts_total") == 2


def wait_for_engines(server, count: int) -> None:
    """Poll until so many engines are ready."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        health = server.http.get(server.url + "/readyz")
        if health.status_code == 200 and health.json()["engines_ready"] == count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{count} engines were never ready: {health.text}")


def last_before_long(lines) -> str:
    """The last line of a stream that ends, or the 20th of one that goes on."""
    last = ""
    for number, line in enumerate(lines):
        last = line
        if number == 20:
            break
    return last
