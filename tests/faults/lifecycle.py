"""Scenarios in which processes are ended, killed and stopped. Their rows are F20 to F24 and F28 to F30."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import psutil
from tests.e2e.conftest import ServerProcess

from .inject import Followed, follow, gauge, streams, until
from .lab import COMPLETIONS, Lab, body, client, endless

STREAMS = 4


async def sigterm_within_grace(lab: Lab) -> None:
    """Streams that fit into the grace come whole; meanwhile nobody new is let in; then the server ends with 0."""
    with lab.own("--drain-grace", "60", step_s=0.02) as server:
        async with client(server) as http:
            whole = body(max_tokens=150, ignore_eos=True, stream=True)
            tasks, _ = await streams(http, COMPLETIONS, [whole] * STREAMS)
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: not_ready(server), "it drains")
            if lab.backend == "echo":  # the others may have finished by now
                refused = await http.post(COMPLETIONS, json=body())
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
                assert int(refused.headers["retry-after"]) >= 1
            ended = await asyncio.gather(*tasks)
        assert all(one.done and one.told for one in ended), ended
        assert await ends(server) == 0


async def sigterm_past_grace(lab: Lab) -> None:
    """Streams that outlive the grace are told so, none is cut silently, and the server ends with 0."""
    with lab.own("--drain-grace", "0.5") as server:
        family = processes(server)
        async with client(server) as http:
            tasks, _ = await streams(http, COMPLETIONS, [endless()] * STREAMS)
            server.process.send_signal(signal.SIGTERM)
            ended = await asyncio.gather(*tasks)
        assert [code(one) for one in ended] == ["shutting_down"] * STREAMS
        assert await ends(server) == 0
        await gone(family)


async def second_signal(lab: Lab) -> None:
    """A second signal does not wait for the grace: the exit code is that signal's, and nothing stays behind."""
    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with lab.own("--drain-grace", "600") as server:
            family = processes(server)
            async with client(server) as http:
                tasks, _ = await streams(http, COMPLETIONS, [endless()])
                server.process.send_signal(signal.SIGTERM)
                await until(lambda one=server: not_ready(one), "it drains")
                server.process.send_signal(number)
                assert await ends(server) == expected
                await asyncio.gather(*tasks)
            await gone(family)


async def sigterm_while_loading(lab: Lab) -> None:
    """SIGTERM at any moment of a start stops it: exit code 0, and no process is left."""
    for moment_s in (0.0, 0.3, 1.0):
        with lab.bare(until="/livez", load_s=60) as server:
            await asyncio.sleep(moment_s)
            family = processes(server)
            server.process.send_signal(signal.SIGTERM)
            assert await ends(server) == 0
            await gone(family)


async def engine_killed(lab: Lab) -> None:
    """kill -9 of the engine in each phase: every stream is told, the server stays, the engine comes back by itself."""
    server = lab.server()
    for phase in ("decode", "prefill", "idle"):
        killed = server.host_pid()
        async with client(server) as http:
            if phase == "idle":
                os.kill(killed, signal.SIGKILL)
            elif phase == "decode":
                tasks, _ = await streams(http, COMPLETIONS, [endless()] * STREAMS)
                os.kill(killed, signal.SIGKILL)
                began = time.monotonic()
                ended = await asyncio.gather(*tasks)
                assert time.monotonic() - began < 30
                assert [code(one) for one in ended] == ["engine_unavailable"] * STREAMS
            else:
                asked = asyncio.create_task(follow(http, COMPLETIONS, endless(prompt="x" * 4000)))
                await asyncio.sleep(0.01)
                os.kill(killed, signal.SIGKILL)
                await until(lambda pid=killed: has_other_host(server, pid), "another engine")
                os.kill(server.host_pid(), signal.SIGKILL)  # one that had not begun was put back: once
                assert (await asked).told
        await until(lambda pid=killed: has_other_host(server, pid), "another engine")
        await until(lambda: ready(server), "it is ready again", 120)
        await answers(server)
    await until(lambda: not zombies(server), "what was killed is reaped")


async def engine_stopped(lab: Lab) -> None:
    """SIGSTOP of the engine: within the stall limit it is taken for dead, its streams are told, and it is replaced."""
    server = lab.server()
    stopped = server.host_pid()
    async with client(server) as http:
        tasks, _ = await streams(http, COMPLETIONS, [endless()] * STREAMS)
        os.kill(stopped, signal.SIGSTOP)
        ended = await asyncio.gather(*tasks)
    assert [code(one) for one in ended] == ["engine_unavailable"] * STREAMS
    await until(lambda: not psutil.pid_exists(stopped), "it is killed")
    await until(lambda: ready(server), "it is ready again", 120)
    await answers(server)


async def engine_crashes(lab: Lab) -> None:
    """The engine crashes in native code: its streams are told by which signal, the engine comes back, and a crash that the
    budget does not cover ends the server with 69."""
    with lab.own("--restarts", "1") as server:
        family = processes(server)
        for number in (signal.SIGSEGV, signal.SIGABRT):
            async with client(server) as http:
                tasks, _ = await streams(http, COMPLETIONS, [endless()] * STREAMS)
                crashed = server.host_pid()
                os.kill(crashed, number)
                ended = await asyncio.gather(*tasks)
            assert [code(one) for one in ended] == ["engine_unavailable"] * STREAMS
            assert all(number.name in one.error["message"] for one in ended if one.error), ended
            if number == signal.SIGSEGV:
                await until(lambda pid=crashed: has_other_host(server, pid), "another engine")
                await until(lambda: ready(server), "it is ready again", 120)
                await answers(server)
                family += processes(server)
        assert await ends(server) == 69
        await gone(family)


async def server_killed(lab: Lab) -> None:
    """kill -9 of the server: the connection breaks, and nothing of what it started stays."""
    with lab.own() as server:
        family = processes(server)
        async with client(server) as http:
            tasks, _ = await streams(http, COMPLETIONS, [endless()] * STREAMS)
            server.process.kill()
            ended = await asyncio.gather(*tasks)
        assert all(one.broken and not one.done for one in ended)
        server.process.wait()
        await gone(family)


# -- looking


def processes(server: ServerProcess) -> list[psutil.Process]:
    """The server and all it started."""
    server_process = psutil.Process(server.process.pid)
    return [server_process, *server_process.children(recursive=True)]


def zombies(server: ServerProcess) -> list[psutil.Process]:
    """Dead processes that nobody has asked after."""
    return [one for one in processes(server) if one.status() == psutil.STATUS_ZOMBIE]


async def gone(family: list[psutil.Process]) -> None:
    """Wait until no process of a family is left."""

    def none_left() -> bool:
        return not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    await until(none_left, "nothing stays behind", 15)


async def ends(server: ServerProcess) -> int:
    """The server's exit code."""
    return await asyncio.to_thread(server.process.wait, 120)


async def not_ready(server: ServerProcess) -> bool:
    """Whether the server takes no more requests."""
    return await asyncio.to_thread(server.status) != 200


async def ready(server: ServerProcess) -> bool:
    """Whether the server takes requests."""
    return await asyncio.to_thread(server.status) == 200


async def has_other_host(server: ServerProcess, pid: int) -> bool:
    """Whether another engine host than `pid` runs."""
    return [one for one in await asyncio.to_thread(server.host_pids) if one != pid] != []


async def answers(server: ServerProcess) -> None:
    """The server answers, and nothing of what was done to it still runs."""
    async with client(server) as http:
        assert (await follow(http, COMPLETIONS, body(stream=True))).done
    assert await gauge(server, "openllm_requests_running") == 0


def code(seen: Followed) -> Any:
    """Code of the error event that ended a stream, None for any other end."""
    return seen.error["code"] if seen.error is not None and seen.told else None
