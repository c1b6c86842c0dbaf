"""Scenarios in which clients misbehave: they leave, or they do not read. Their rows are F01 to F04."""

from __future__ import annotations

import time

import psutil

from .inject import Leaving, Raw, follow, gauge, idle, streams, until
from .lab import COMPLETIONS, SLOTS, Lab, body, client, endless

WAYS: tuple[Leaving, ...] = ("fin", "rst", "half")
SLOW_CLIENTS = 40
BEGUN = "openllm_time_to_first_token_seconds_count"


async def leaves_mid_stream(lab: Lab) -> None:
    """However a client leaves, its slot is free at once, and the stream beside it comes whole."""
    server = lab.server()
    async with client(server) as http:
        alone = await follow(http, COMPLETIONS, body(max_tokens=160, ignore_eos=True, stream=True))
        for way in WAYS:
            leaver = Raw.open(server)
            leaver.ask(COMPLETIONS, endless())
            while b"data: " not in await leaver.read():
                pass
            (mate,), _ = await streams(http, COMPLETIONS, [body(max_tokens=160, ignore_eos=True, stream=True)])
            leaver.leave(way)
            beside = await mate
            assert beside.done and beside.text == alone.text
            await idle(server, 10)  # the stream that was left would go on for minutes
            leaver.sock.close()


async def leaves_in_line(lab: Lab) -> None:
    """Clients that leave while they wait never reach the engine: not one token is computed for them."""
    with lab.own("--max-queue", "50", slots=1) as server:
        holder = Raw.open(server)
        holder.ask(COMPLETIONS, endless())
        while b"data: " not in await holder.read():
            pass
        waiting = [Raw.open(server) for _ in range(20)]
        for one in waiting:
            one.ask(COMPLETIONS, endless())

        async def depth(wanted: int) -> bool:
            return await gauge(server, "openllm_requests_waiting") == wanted

        await until(lambda: depth(20), "all wait")
        begun = await gauge(server, BEGUN)
        for number, one in enumerate(waiting):
            one.leave(WAYS[number % 2])
        await until(lambda: depth(0), "the line is empty", 10)
        holder.leave("rst")
        await idle(server, 10)
        assert await gauge(server, BEGUN) == begun


async def leaves_a_whole_answer(lab: Lab) -> None:
    """A client that leaves before its one-shot answer frees its slot as one that streams does."""
    server = lab.server()

    async def running(number: int) -> bool:
        return await gauge(server, "openllm_requests_running") == number

    for way in WAYS[:2]:
        leaver = Raw.open(server)
        leaver.ask(COMPLETIONS, endless() | {"stream": False})
        await until(lambda: running(1), "it runs")
        leaver.leave(way)
        await idle(server, 10)


async def never_reads(lab: Lab) -> None:
    """Clients that read nothing cost a bounded buffer each, are cut after the stall limit, and slow nobody down."""
    with lab.own("--stall-timeout", "2", slots=SLOW_CLIENTS + SLOTS, step_s=0.001) as server:
        process = psutil.Process(server.process.pid)
        async with client(server) as http:
            await follow(http, COMPLETIONS, body(stream=True))
            before = process.memory_info().rss
            deaf = [Raw.open(server, receive_bytes=4096) for _ in range(SLOW_CLIENTS)]
            for one in deaf:
                one.ask(COMPLETIONS, endless(logprobs=5))
            began, most = time.monotonic(), 0
            while time.monotonic() - began < 1.5:
                most = max(most, process.memory_info().rss)
                assert (await follow(http, COMPLETIONS, body(stream=True))).done
            took = await idle(server)
            assert took < 45, "they were not cut after the stall limit"
            assert most - before < 60 << 20
            assert (await follow(http, COMPLETIONS, body(stream=True))).done
        for one in deaf:
            one.sock.close()
