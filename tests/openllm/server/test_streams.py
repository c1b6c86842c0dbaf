"""Streams that do not simply end well: failures, clients that leave or stall, silence, deadlines, draining."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import httpx
import pytest
from starlette.types import Message
from tests.enumerate.site import scope_of
from tests.openllm.server.serving import Served, chat_body, events, listening, over_socket, serving, text_body

from openllm.engine.process import launch_process
from openllm.server import sse
from openllm.server.frames import ChatFrames
from openllm.service.answers import Answer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def request_of(body: dict[str, Any], path: str = TEXT) -> bytes:
    """A POST as bytes."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def settled(served: Served, within_s: float = 20.0) -> None:
    """Wait until the engine holds nothing."""
    engine = served.composed.engine
    async with asyncio.timeout(within_s):
        while engine.num_running or engine.queue_depth:
            await asyncio.sleep(0.005)


# -- failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body(stream=True)),
        ("/v1/completions", {"model": "echo", "prompt": ["a", "b"], "stream": True}),
        ("/v1/generate_stream", {"prompt": "a"}),
    ],
)
async def test_a_failure_mid_stream_is_an_error_event_without_done(path: str, body: dict[str, Any]) -> None:
    """What came before stays; then one error event; then the body ends properly; never [DONE]."""
    async with serving(reply="abcdef", fail_at=3) as served, over_socket(served) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == 200
    *before, last = events(answer.text)
    assert before and "error" not in before[-1]
    assert last["error"]["code"] == "internal_error" and "scripted failure" in last["error"]["message"]
    assert "[DONE]" not in answer.text


async def test_a_failure_before_the_first_delta_has_a_status() -> None:
    """Nothing was sent yet, so the refusal can still be an ordinary one."""
    async with serving(reply="abc", nan_at=1) as served:
        answer = await served.post(TEXT, text_body(stream=True))
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "non_finite_logits"
        one_shot = await served.post(TEXT, text_body())
        assert one_shot.status_code == 500 and one_shot.json()["error"]["code"] == "non_finite_logits"


async def test_plain_text_that_fails_is_cut() -> None:
    """Bare text cannot say that it failed: its connection breaks instead of ending."""
    async with serving(reply="abcdef", fail_at=3) as served, over_socket(served) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post("/v1/generate_stream", json={"prompt": "a"}, headers={"accept": "text/plain"})


async def test_the_deadline_of_a_request() -> None:
    """A request past its deadline is 504, or an error event once it streams."""
    async with serving(options={"server_timeout": 1.0}, reply="a" * 4000, step_s=0.05) as served:
        one_shot, streamed = await asyncio.gather(
            served.post(TEXT, text_body()), served.post(TEXT, text_body(stream=True))
        )
    assert one_shot.status_code == 504 and one_shot.json()["error"]["code"] == "deadline_exceeded"
    assert streamed.status_code == 200 and events(streamed.text)[-1]["error"]["code"] == "deadline_exceeded"


async def test_overload_is_503_with_retry_after() -> None:
    """With the line full a request is refused at once; one of several prompts takes all of them along."""
    async with serving(options={"max_queue": 1}, max_num_seqs=1, step_s=0.02, reply="a" * 500) as served:
        running = [asyncio.create_task(served.post(TEXT, text_body(max_tokens=400))) for _ in range(2)]
        async with asyncio.timeout(5):
            while served.composed.engine.num_running + served.composed.engine.queue_depth < 2:
                await asyncio.sleep(0.005)
        refused = await served.post(TEXT, text_body(stream=True))
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "server_is_overloaded"
        assert refused.json()["error"]["type"] == "service_unavailable_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        running.pop().cancel()
        async with asyncio.timeout(5):
            while served.composed.engine.num_running + served.composed.engine.queue_depth > 1:
                await asyncio.sleep(0.005)
        together = {"model": "echo", "prompt": ["a", "b"], "max_tokens": 5}
        assert (await served.post("/v1/completions", together)).status_code == 503
        assert served.composed.engine.num_running + served.composed.engine.queue_depth == 1
        never = await served.post("/v1/completions", together | {"prompt": ["a", "b", "c"]})
        assert never.status_code == 400 and never.json()["error"]["param"] == "prompt"
        running.pop().cancel()
        await settled(served)
        assert (await served.post(TEXT, text_body(max_tokens=1))).status_code == 200


# -- clients that leave ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(stream: bool, reset: bool) -> None:
    """FIN or RST, streaming or waiting: the engine drops the request at once, and it counts as 499."""
    async with serving(reply="a" * 4000, step_s=0.01, max_num_seqs=2) as served, listening(served) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_of(text_body(stream=stream, n=2)))
        async with asyncio.timeout(5):
            while served.composed.engine.num_running < 2:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        await settled(served, 5)  # the answer itself would take 40 s
        async with asyncio.timeout(5):
            while f'route="{TEXT}",status="499"}} 1.0' not in (await served.http.get("/metrics")).text:
                await asyncio.sleep(0.005)


async def test_a_client_that_leaves_while_it_waits_in_line() -> None:
    """A queued request whose client left never reaches the engine host."""
    async with serving(reply="a" * 4000, step_s=0.01, max_num_seqs=1) as served, listening(served) as port:
        holder = asyncio.create_task(served.post(TEXT, text_body(max_tokens=3000)))
        async with asyncio.timeout(5):
            while served.composed.engine.num_running < 1:
                await asyncio.sleep(0.005)
        writers = []
        for _ in range(6):  # more than the look-ahead
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_of(text_body(stream=True)))
            writers.append(writer)
        async with asyncio.timeout(5):
            while served.composed.engine.queue_depth < 6:
                await asyncio.sleep(0.005)
        for writer in writers:
            writer.close()
        async with asyncio.timeout(5):  # the one that holds the slot would take 30 s
            while served.composed.engine.queue_depth:
                await asyncio.sleep(0.005)
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)


async def test_leaving_as_the_answer_ends_ends_it_well() -> None:
    """A client that leaves in the moment in which its stream has ended: nothing is cancelled any more."""
    body, gone = json.dumps(text_body(stream=True) | {"prompt": ["one", "two"]}).encode(), asyncio.Event()
    requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not requests:
            await gone.wait()
            return {"type": "http.disconnect"}
        return requests.pop()

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            gone.set()
            await asyncio.sleep(0)  # so that whoever waits for the client runs first

    async with serving(reply="abc") as served:
        scope = scope_of("POST", TEXT, "application/json", len(body))
        await asyncio.ensure_future(served.composed.app(scope, receive, send))
    assert sent[0]["status"] == 200


async def test_leaving_one_stream_leaves_the_others_alone() -> None:
    """Batch mates of a client that left get their whole answers."""
    async with serving(reply="abcdefghij", step_s=0.02) as served, listening(served) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_of(text_body(stream=True)))
        mates = [asyncio.create_task(served.post(TEXT, text_body(stream=True))) for _ in range(3)]
        await asyncio.sleep(0.1)
        writer.close()
        for answer in await asyncio.gather(*mates):
            text = "".join(c["choices"][0]["text"] for c in events(answer.text)[:-1])
            assert text == "abcdefghij" and answer.text.endswith("data: [DONE]\n\n")


async def test_a_client_that_stalls_is_cut() -> None:
    """One that takes nothing for the stall limit loses its connection and its slot; a slow one does not."""
    logprobs = {"logprobs": 20}  # much to send per token
    async with (
        serving(reply="a" * 4000, max_num_seqs=2, options={"stall_timeout": 0.5}) as served,
        listening(served) as port,
    ):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        writer.transport.pause_reading()
        writer.write(request_of(text_body(stream=True, ignore_eos=True, max_tokens=4000, **logprobs)))
        async with asyncio.timeout(5):
            while served.composed.engine.num_running < 1:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(20):
            while 'status="499"} 1.0' not in (await served.http.get("/metrics")).text:
                await asyncio.sleep(0.05)
        await settled(served)
        writer.close()
        del reader


async def test_a_slow_client_gets_all_in_order() -> None:
    """A client that reads in fits and starts gets every token once and in order, whichever way each one took."""
    letters = "".join(chr(97 + i % 26) for i in range(3000))
    async with serving(reply=letters, max_num_seqs=2) as served, listening(served) as port:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        writer.write(request_of(text_body(stream=True, max_tokens=3000, logprobs=5)))
        received = b""
        async with asyncio.timeout(30):
            while b"[DONE]" not in received[-200:]:
                received += await reader.read(65536)
                if len(received) % 7 == 0:
                    await asyncio.sleep(0.02)
        writer.close()
    text = "".join(json.loads(f'"{found}"') for found in re.findall(r'"text":"([^"]*)"', received.decode()))
    assert text == letters


async def test_silence_is_filled_with_comments() -> None:
    """While no token comes, a comment is sent every interval; clients of server-sent events skip it."""
    async with serving(options={"ping_interval": 0.2}, reply="ab", step_s=0.4) as served, over_socket(served) as http:
        answer = await http.post(TEXT, json=text_body(stream=True))
    assert ": ping\n\n" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_headers_come_before_a_late_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first token that takes long does not keep the client without a sign of life."""
    monkeypatch.setattr(sse, "FIRST_DELTA_WAIT_S", 0.1)
    async with serving(reply="ab", prefill_s=1.0) as served, listening(served) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_of(text_body(stream=True)))
        async with asyncio.timeout(0.9):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        body = await reader.readuntil(b"[DONE]\n\n")
        assert b'"text":"a"' in body
        writer.close()


# -- the server's own end -------------------------------------------------------------------------------------------------


async def test_draining_refuses_new_and_tells_the_rest() -> None:
    """Draining: not ready, new requests 503 shutting_down, what outlives the grace gets an error event."""
    async with serving(reply="a" * 4000, step_s=0.02) as served:
        running = asyncio.create_task(served.post(TEXT, text_body(stream=True)))
        async with asyncio.timeout(5):
            while served.composed.engine.num_running == 0:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        drain = asyncio.create_task(served.composed.engine.drain(1.5))
        await asyncio.sleep(0.05)
        for answer in (await served.http.get("/readyz"), await served.post(TEXT, text_body())):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutting_down"
            assert int(answer.headers["retry-after"]) >= 1
        assert (await served.http.get("/livez")).status_code == 200
        await drain
        told = events((await running).text)
        assert told[-1]["error"]["code"] == "shutting_down" and "[DONE]" not in told


async def test_not_ready_while_loading() -> None:
    """Until a real token was generated: /readyz 503 with what is being done, /livez 200, requests 503."""
    async with serving(ready=False, load_s=2.0, reply="x") as served:
        await asyncio.sleep(0.1)
        for answer in (await served.http.get("/readyz"), await served.post(TEXT, text_body())):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_loading"
            assert int(answer.headers["retry-after"]) >= 1
        assert (await served.http.get("/livez")).status_code == 200
        assert (await served.http.get("/v1/metadata")).json()["context_length"] is None
        await served.composed.engine.wait_ready(10)
        assert (await served.http.get("/readyz")).status_code == 200


async def test_a_model_that_cannot_load() -> None:
    """Once loading failed for good, /readyz says why and tells clients not to wait for it."""
    async with serving(
        ready=False, options={"restarts": 0}, launch=launch_process, fail_load="no such weights"
    ) as served:
        async with asyncio.timeout(30):
            await served.composed.engine.wait_failed()
        answer = await served.http.get("/readyz")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_unavailable"
    assert "no such weights" in answer.json()["error"]["message"] and answer.headers["x-should-retry"] == "false"


# -- frames -----------------------------------------------------------------------------------------------------------------


async def test_frames_are_lines_of_json_whatever_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends, quotes, NUL and separators in the text stay inside one data line and come back unchanged."""
    text = 'a\nb\r\n"c"\\ \x00 \u2028 \u2029 data: x\n\n🙂'
    async with serving(reply=text) as served:
        for path, body in (
            (CHAT, chat_body(stream=True)),
            ("/v1/completions", {"model": "echo", "prompt": "p", "stream": True}),
            ("/v1/generate_stream", {"prompt": "p", "llm_config": {"max_new_tokens": 100}}),
        ):
            *frames, done = events((await served.post(path, body)).text)
            joined = ""
            for frame in frames:
                choice = frame["choices"][0] if "choices" in frame else frame
                joined += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            assert (joined, done) == (text, "[DONE]"), path


def test_model_names_are_escaped_in_frames() -> None:
    """A served name with quotes cannot break a frame."""

    class OneStream:
        """Just enough of a stream for an Answer."""

    answer = Answer("cmpl", 'a"b\n', 1, [OneStream()])  # type: ignore[list-item]
    frame = ChatFrames(answer, "id", False).begin()
    assert json.loads(frame.decode().removeprefix("data: "))["model"] == 'a"b\n'
