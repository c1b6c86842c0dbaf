"""Many clients against one real server while an actor disturbs it; what each saw becomes a history.

`converse` is called by the test of this folder for half a minute and by the soak for ten. The server is a process of its
own with adapters, over echo or over a model that they force; clients speak HTTP and gRPC, half of them through a proxy
that cuts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import grpc
import grpc.aio
import httpx
from tests.e2e.conftest import ServerProcess

from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.proto.openllm.v1 import openllm_pb2_grpc

from .history import Call, Switch
from .proxy import Proxy, proxying

CALL_S = 90.0
"""A client that has heard no end by then reports that there was none."""
FLOOD = 150
MORE_S = 120.0
"""Seconds that a slow machine gets in addition."""


@attrs.define
class Course:
    """A history while it is made.

    Attributes:
        adapters: name -> what it answers to whatever is asked.
        chat: what the base answers to a chat, with `@` where the words of the user are; None where the base repeats nothing,
            and is never asked.
        limits: how long answers are.
    """

    server: ServerProcess
    adapters: Mapping[str, str]
    proxy: Proxy
    rng: random.Random
    stub: openllm_pb2_grpc.OpenLLMStub
    chat: str | None
    limits: Mapping[str, object]
    calls: list[Call] = attrs.Factory(list[Call])
    switches: list[Switch] = attrs.Factory(list[Switch])
    deeds: list[str] = attrs.Factory(list[str])
    over: asyncio.Event = attrs.Factory(asyncio.Event)

    def new_call(self) -> Call:
        """A call with a marker of its own; the answers that it may get."""
        marker = f"<{self.rng.getrandbits(48):012x}>"
        repeated: dict[str | None, str] = {} if self.chat is None else {None: prompt_of(marker)}
        return Call(marker=marker, expected=repeated | dict(self.adapters))


def prompt_of(marker: str) -> str:
    """A prompt that nobody else has."""
    return f"say {marker} again"


async def converse(
    server: ServerProcess,
    adapters: Mapping[str, str],
    *,
    clients: int,
    seconds: float,
    seed: int,
    deeds: Sequence[Callable[[Course], Awaitable[None]]],
    limits: Mapping[str, object] | None = None,
    least: int = 0,
) -> Course:
    """Let clients talk to a server for some time, while deeds are done to it one after another.

    Args:
        adapters: name -> what it answers to whatever is asked.
        seconds: after which no client begins a new call, if enough has happened by then; a slow machine gets more of them.
        least: deeds, and switches of the default, that are enough.
        limits: how long answers are, where the base repeats nothing.
    """
    port = int(server.url.rpartition(":")[2])
    async with proxying(port) as proxy, grpc.aio.insecure_channel(server.grpc) as channel:
        stub = openllm_pb2_grpc.OpenLLMStub(channel)
        form = await chat_form(server.url) if limits is None else None
        course = Course(server, adapters, proxy, random.Random(seed), stub, form, limits or {})
        tasks = [asyncio.create_task(client(course, number)) for number in range(clients)]
        tasks.append(asyncio.create_task(switcher(course)))
        tasks.append(asyncio.create_task(actor(course, deeds)))
        end = time.monotonic() + seconds
        while time.monotonic() < end or (
            min(len(course.deeds), len(course.switches)) < least and time.monotonic() < end + MORE_S
        ):
            await asyncio.sleep(0.1)
        course.over.set()
        await asyncio.gather(*tasks)
        return course


async def chat_form(url: str) -> str:
    """What echo answers to a chat, with `@` where the words of the user are."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        body = {"model": "echo", "messages": [{"role": "user", "content": "@"}]}
        return (await http.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]


# -- clients ----------------------------------------------------------------------------------------------------------


async def client(course: Course, number: int) -> None:
    """One client: one call after another."""
    cuttable = number % 2 == 1
    url = f"http://127.0.0.1:{course.proxy.port}" if cuttable else course.server.url
    asks = (generate, generate, named, over_grpc) + ((chat, completion) if course.chat is not None else ())
    async with httpx.AsyncClient(base_url=url, timeout=CALL_S) as http:
        while not course.over.is_set():
            call = course.new_call()
            call.cuttable = cuttable
            await made(course, call, course.rng.choice(asks), http)
            if call.ends == ["refused"]:
                await asyncio.sleep(course.rng.uniform(0.02, 0.1))


Ask = Callable[[Course, Call, httpx.AsyncClient], Awaitable[None]]


async def made(course: Course, call: Call, ask: Ask, http: httpx.AsyncClient) -> None:
    """Make one call and note how it went."""
    course.calls.append(call)
    call.began = time.monotonic()
    try:
        async with asyncio.timeout(CALL_S):
            await ask(course, call, http)
    except TimeoutError:
        call.code = "no end"
    except httpx.HTTPError as error:
        call.ends.append("cut")
        call.code = repr(error)
    call.ended = time.monotonic()


async def generate(course: Course, call: Call, http: httpx.AsyncClient) -> None:
    """A stream by whatever adapter is the default."""
    call.names_default = True
    body = {"prompt": prompt_of(call.marker), "llm_config": course.limits}
    await streamed(course, call, http, "/v1/generate_stream", body)


async def named(course: Course, call: Call, http: httpx.AsyncClient) -> None:
    """A stream by an adapter of one's own choice."""
    call.asked = course.rng.choice(list(course.adapters))
    body = {"prompt": prompt_of(call.marker), "adapter_name": call.asked, "llm_config": course.limits}
    await streamed(course, call, http, "/v1/generate_stream", body)


async def chat(course: Course, call: Call, http: httpx.AsyncClient) -> None:
    """A chat, which the base answers."""
    call.expected = {None: (course.chat or "").replace("@", prompt_of(call.marker))}
    messages = [{"role": "user", "content": prompt_of(call.marker)}]
    await streamed(course, call, http, "/v1/chat/completions", {"model": "echo", "messages": messages, "stream": True})


async def streamed(course: Course, call: Call, http: httpx.AsyncClient, path: str, body: object) -> None:
    """Read a stream to its end; one client in ten leaves before."""
    leave_after = course.rng.randrange(1, 12) if course.rng.random() < 0.1 else None
    async with http.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            refused(call, response)
            return
        call.adapter = response.headers.get("x-openllm-adapter")
        call.answered = time.monotonic()
        seen = 0
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                take(call, line.removeprefix("data: "))
                seen += 1
            if seen == leave_after and not call.ends:
                call.ends.append("left")
                return
    if not call.ends:
        call.ends.append("cut")
        call.code = "the body ended without an end of the stream"


def take(call: Call, payload: str) -> None:
    """One event of a stream."""
    if call.ends:
        call.events_after += 1
    if payload == "[DONE]":
        call.done = True
        call.ends.append("finished")
        return
    data = json.loads(payload)
    if "error" in data:
        call.ends.append("error")
        call.code = data["error"]["code"]
        return
    for piece in data.get("choices", [data]):
        call.text += piece["text"] if "text" in piece else piece["delta"].get("content") or ""
        call.finish = piece["finish_reason"] or call.finish


async def completion(course: Course, call: Call, http: httpx.AsyncClient) -> None:
    """An answer in one piece, by the base."""
    response = await http.post("/v1/completions", json={"model": "echo", "prompt": prompt_of(call.marker)})
    if response.status_code != 200:
        refused(call, response)
        return
    choice = response.json()["choices"][0]
    call.text, call.finish, call.done = choice["text"], choice["finish_reason"], True
    call.ends.append("finished")


def refused(call: Call, response: httpx.Response) -> None:
    """A status that is none of success: it must say why."""
    call.ends.append("refused")
    call.code = response.json()["error"]["code"]


async def over_grpc(course: Course, call: Call, http: httpx.AsyncClient) -> None:
    """A stream over gRPC, by an adapter of one's own choice; gRPC's own end stands for [DONE]."""
    call.asked = call.adapter = course.rng.choice(list(course.adapters))
    sampling = pb.SamplingParams(**course.limits)
    request = pb.GenerateRequest(prompt=prompt_of(call.marker), adapter_name=call.asked, sampling=sampling)
    try:
        async for chunk in course.stub.GenerateStream(request):
            call.text += chunk.text
            call.finish = chunk.finish_reason or call.finish
    except grpc.aio.AioRpcError as error:
        call.ends.append("error" if call.text else "refused")
        call.code = error.code().name
        return
    call.done = True
    call.ends.append("finished")


# -- what is done to the server ---------------------------------------------------------------------------------------


async def switcher(course: Course) -> None:
    """Change the default adapter, again and again."""
    names = [*course.adapters, "base"] if course.chat is not None else list(course.adapters)
    async with httpx.AsyncClient(base_url=course.server.url, timeout=CALL_S) as http:
        while not course.over.is_set():
            name = course.rng.choice(names)
            began = time.monotonic()
            response = await http.post("/v1/adapters", json={"adapter_name": name})
            if response.status_code == 200:
                adapter = None if name == "base" else name
                course.switches.append(Switch(adapter=adapter, began=began, ended=time.monotonic()))
            await asyncio.sleep(course.rng.uniform(0.0, 0.05))


async def actor(course: Course, deeds: Sequence[Callable[[Course], Awaitable[None]]]) -> None:
    """Do one deed after another, letting the server recover in between."""
    for deed in deeds:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(course.rng.uniform(0.8, 1.6)):
                await course.over.wait()
        if course.over.is_set():
            return
        await deed(course)
        course.deeds.append(deed.__name__)
        await ready_again(course)


async def ready_again(course: Course) -> None:
    """Wait until the server takes requests."""
    async with httpx.AsyncClient(base_url=course.server.url, timeout=30) as http:
        for _ in range(1200):
            if (await http.get("/readyz")).status_code == 200:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the server did not become ready again")


async def kill_engine(course: Course) -> None:
    """kill -9 of the engine host."""
    for pid in await asyncio.to_thread(course.server.host_pids):
        os.kill(pid, signal.SIGKILL)


async def pause_engine(course: Course) -> None:
    """The engine stands still for a moment, and goes on."""
    for pid in await asyncio.to_thread(course.server.host_pids):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def freeze_engine(course: Course) -> None:
    """The engine stands still for good: the server must find out, and replace it."""
    for pid in await asyncio.to_thread(course.server.host_pids):
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(15)


async def cut_connections(course: Course) -> None:
    """Break every connection of half the clients."""
    course.proxy.cut_all()


async def flood(course: Course) -> None:
    """Many calls at once, far more than may wait."""
    async with httpx.AsyncClient(base_url=course.server.url, timeout=CALL_S, limits=httpx.Limits()) as http:
        calls = [course.new_call() for _ in range(FLOOD)]
        await asyncio.gather(*(made(course, call, named, http) for call in calls))
