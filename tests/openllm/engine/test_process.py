"""Real engine host processes on the echo backend: starting, dying, being killed, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openllm.engine import groups
from openllm_core.errors import (
    EngineError,
    EngineUnavailable,
    InvalidSetting,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
)

from .conftest import MakeEngine, read, request, text_of
from .test_engine import eventually


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_answers_like_the_embedded_one(make_engine: MakeEngine) -> None:
    """The same requests give the same deltas over the socketpair and in memory."""
    found = []
    for process in (True, False):
        engine = await make_engine(process=process, peak=1.0)
        async with await engine.add(request("héllo", n=2, seed=3, logprobs=2, stop=("zz",), max_tokens=20)) as stream:
            by_choice: dict[int, list[object]] = {0: [], 1: []}
            async for delta in stream:
                by_choice[delta.index] += [delta.text, *delta.token_ids, delta.finish_reason, *(delta.logprobs or ())]
        found.append(by_choice)
    assert found[0] == found[1]


async def test_the_host_is_a_process_of_its_own_session(make_engine: MakeEngine) -> None:
    """Its pid is known, it leads its own session and group, and it is gone (no zombie) after aclose."""
    engine = await make_engine(process=True)
    pid = engine.host_pid
    assert pid is not None
    assert os.getsid(pid) == os.getpgid(pid) == pid
    await engine.aclose()
    assert not Path(f"/proc/{pid}").exists()


async def test_kill_9_mid_stream(make_engine: MakeEngine) -> None:
    """The stream ends with EngineUnavailable at once, the host restarts, and requests work again."""
    engine = await make_engine(process=True, step_s=0.01)
    pid = engine.host_pid
    assert pid is not None
    stream = await engine.add(request("x" * 1000, ignore_eos=True))
    await anext(stream)
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailable) as caught:
        await read(stream)
    assert time.monotonic() - started < 5  # the answer would have taken ten seconds
    assert "SIGKILL" in caught.value.message
    assert caught.value.retry_after_s is not None
    assert engine.state == "restarting"
    with pytest.raises(EngineUnavailable):
        await engine.add(request())
    await engine.wait_ready(20)
    assert engine.host_pid != pid
    assert not Path(f"/proc/{pid}").exists()
    assert await text_of(engine, "back") == "back"
    assert engine.metrics.restarts == 1


async def test_requests_not_begun_survive_one_death(make_engine: MakeEngine) -> None:
    """Those in line and those the host had not begun are served after the restart, in order; begun ones fail."""
    engine = await make_engine(process=True, slots=1, step_s=0.02, engine={"max_queue": 50})
    first = asyncio.ensure_future(text_of(engine, "x" * 300))
    await eventually(lambda: any(s.state == "started" for s in engine.dispatcher.sequences.values()))
    order: list[int] = []

    async def one(number: int) -> str:
        text = await text_of(engine, f"n{number}")
        order.append(number)
        return text

    others = [asyncio.ensure_future(one(number)) for number in range(8)]
    await eventually(lambda: engine.queue_depth == 8)
    pid = engine.host_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        await first
    assert await asyncio.gather(*others) == [f"n{number}" for number in range(8)]
    assert order == list(range(8))


async def test_a_request_that_kills_twice_fails(make_engine: MakeEngine) -> None:
    """A request put back once is not put back again: the one that kills the host is gone after its second kill."""
    engine = await make_engine(process=True, die_at=1, when="poison")
    with pytest.raises(EngineUnavailable) as caught:
        await text_of(engine, "poison")
    assert "status 3" in caught.value.message
    assert engine.metrics.restarts == 2
    await engine.wait_ready(20)
    assert await text_of(engine, "fine") == "fine"


async def test_the_budget_is_spent(make_engine: MakeEngine) -> None:
    """After the last restart the engine has failed for good: wait_failed returns why, add and wait_ready say so."""
    engine = await make_engine(process=True, die_at=2, watch={"restarts": 1})
    failed = asyncio.ensure_future(engine.wait_failed())
    for _ in range(2):
        await engine.wait_ready(20)
        with pytest.raises(EngineUnavailable):
            await text_of(engine, "xx")
    error = await asyncio.wait_for(failed, 5)
    assert "status 3" in error.message
    assert engine.state == "failed"
    assert engine.failure is error
    with pytest.raises(EngineUnavailable, match="has failed"):
        await engine.add(request())
    with pytest.raises(EngineUnavailable):
        await engine.wait_ready(1)


async def test_a_frozen_host_is_replaced(make_engine: MakeEngine) -> None:
    """A host that stands still (no pong) is killed and replaced; its streams fail."""
    engine = await make_engine(process=True, freeze_at=3, when="freeze", watch={"stall_s": 0.4, "ping_s": 0.1})
    with pytest.raises(EngineUnavailable, match="sign of life"):
        await text_of(engine, "freeze")
    await engine.wait_ready(20)
    assert await text_of(engine, "fine") == "fine"


async def test_a_host_that_lets_no_thread_run_is_replaced(make_engine: MakeEngine) -> None:
    """Native code that computes for ever and holds the interpreter is a stall like any other."""
    engine = await make_engine(process=True, spin_at=3, when="spin", watch={"stall_s": 0.4, "ping_s": 0.1})
    with pytest.raises(EngineUnavailable, match="sign of life"):
        await text_of(engine, "spin")
    await engine.wait_ready(60)
    assert await text_of(engine, "fine") == "fine"


async def test_a_crash_in_native_code_is_named(make_engine: MakeEngine) -> None:
    """A host that crashes in the middle of an answer: its stream is told the signal, and another host starts."""
    engine = await make_engine(process=True, crash_at=3, when="crash")
    with pytest.raises(EngineUnavailable, match="SIGSEGV"):
        await text_of(engine, "crash")
    await engine.wait_ready(60)
    assert await text_of(engine, "fine") == "fine"


async def test_a_stopped_host_is_replaced(make_engine: MakeEngine) -> None:
    """SIGSTOP is noticed like any other stall, and SIGKILL ends the stopped process."""
    engine = await make_engine(process=True, watch={"stall_s": 0.4, "ping_s": 0.1})
    pid = engine.host_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: engine.state == "restarting", 5)
    await engine.wait_ready(20)
    assert not alive(pid)
    assert await text_of(engine) == "hello"


async def test_steps_that_stop_are_noticed(make_engine: MakeEngine) -> None:
    """A backend that reports itself unhealthy while its process lives is replaced."""
    engine = await make_engine(process=True, hang_at=2, when="hang")
    with pytest.raises(EngineUnavailable):
        await text_of(engine, "hang")
    await engine.wait_ready(20)


async def test_load_failure_has_its_own_words(make_engine: MakeEngine) -> None:
    """What loading raised is the engine's failure, hint included, after one try."""
    engine = await make_engine(process=True, wait=False, fail_load="the weights are gone")
    with pytest.raises(EngineError) as caught:
        await engine.wait_ready(20)
    assert caught.value.message == "the weights are gone"
    assert caught.value.hint is not None
    assert engine.metrics.restarts == 0


async def test_wrong_engine_arg_keeps_its_class(make_engine: MakeEngine) -> None:
    """An operator's mistake found in the host keeps its class, and so its exit code."""
    engine = await make_engine(process=True, wait=False, nonsense=1)
    with pytest.raises(InvalidSetting, match="nonsense"):
        await engine.wait_ready(20)


async def test_crash_while_loading_tells_the_root_cause(make_engine: MakeEngine) -> None:
    """A process that dies while loading is explained by what it printed, in one line."""
    engine = await make_engine(process=True, wait=False, crash_load=9, watch={"restarts": 1})
    with pytest.raises(EngineUnavailable) as caught:
        await engine.wait_ready(20)
    assert caught.value.message == "The engine host ended with status 9: RuntimeError: the scripted crash while loading"
    assert engine.metrics.restarts == 1


@pytest.mark.parametrize("fault", [{"nan_at": 1}, {"fail_at": 1}])
async def test_ready_needs_a_real_token(make_engine: MakeEngine, fault: dict[str, int]) -> None:
    """A model that loads but cannot draw its first token never becomes ready."""
    engine = await make_engine(process=True, wait=False, warm_up=True, **fault)
    with pytest.raises(EngineError):
        await engine.wait_ready(20)
    assert engine.state == "failed"


async def test_closing_while_loading_leaves_nothing(make_engine: MakeEngine) -> None:
    """A host in the middle of loading is ended at once and reaped."""
    engine = await make_engine(process=True, wait=False, load_s=60)
    await eventually(lambda: engine.host_pid is not None and engine.progress[0] == "loading echo")
    pid = engine.host_pid
    assert pid is not None
    started = time.monotonic()
    await engine.aclose()
    assert time.monotonic() - started < 15  # loading takes a minute
    assert not Path(f"/proc/{pid}").exists()


async def test_what_the_host_prints_is_logged(make_engine: MakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    """The host's output goes to the log, never to this process's stdout."""
    with caplog.at_level(logging.DEBUG, "openllm.engine.host"):
        engine = await make_engine(process=True, wait=False, crash_load=9, watch={"restarts": 0})
        with pytest.raises(OpenLLMError):
            await engine.wait_ready(20)
    assert any("scripted crash" in record.message for record in caplog.records)


def serving_process(**script: object) -> subprocess.Popen[str]:
    """A process of its own with an engine; prints the host's pid once it is ready."""
    code = (
        "import asyncio, sys, time\n"
        "from openllm.engine.engine import Engine\n"
        "from openllm.tokenizer import byte_tokenizer\n"
        "from openllm_core.options import EngineOptions\n"
        "async def main():\n"
        f"    engine = Engine(EngineOptions(backend='echo', engine_arg={script}), byte_tokenizer())\n"
        "    await engine.start()\n"
        "    await engine.wait_ready(20)\n"
        "    print(engine.host_pid, flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_the_host_dies_with_its_parent() -> None:
    """kill -9 of the process that started it takes the host down, whatever the host is doing."""
    with serving_process() as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        os.kill(pid, signal.SIGSTOP)  # even a stopped one
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def test_the_host_dies_though_nobody_watches() -> None:
    """With its watchdog stopped, and itself, the kernel ends the host with the process that started it."""
    with serving_process() as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watchdogs = set(groups.members(pid)) - {pid}
        assert len(watchdogs) == 1
        for one in watchdogs:
            os.kill(one, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGSTOP)
            parent.kill()
            deadline = time.monotonic() + 10
            while alive(pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not alive(pid)
        finally:
            for one in (*watchdogs, pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)


def test_what_the_host_started_dies_with_the_server() -> None:
    """kill -9 of the server: the host, its children and theirs are gone within a second, though they ignore signals."""
    with serving_process(family=3) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        deadline = time.monotonic() + 10
        while len(groups.members(pid)) < 5 and time.monotonic() < deadline:  # host, watchdog, three generations
            time.sleep(0.02)
        assert len(groups.members(pid)) == 5
        parent.kill()
        killed_at = time.monotonic()
    while groups.members(pid) and time.monotonic() < killed_at + 1:
        time.sleep(0.01)
    assert groups.members(pid) == []


async def test_what_the_host_started_dies_with_the_host(make_engine: MakeEngine) -> None:
    """A host that is killed takes its family along before the next one is started."""
    engine = await make_engine(process=True, family=2)
    pid = engine.host_pid
    assert pid is not None
    await eventually(lambda: len(groups.members(pid)) == 4, 10)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: engine.host_pid not in (pid, None), 10)
    assert groups.members(pid) == []
    await engine.wait_ready(20)


async def test_closing_ends_what_the_host_started(make_engine: MakeEngine) -> None:
    """After aclose nothing of the group is left."""
    engine = await make_engine(process=True, family=2)
    pid = engine.host_pid
    assert pid is not None
    await eventually(lambda: len(groups.members(pid)) == 4, 10)
    await engine.aclose()
    assert not groups.exists(pid) or groups.members(pid) == []


@pytest.mark.parametrize(
    ("fault", "kind", "cause", "fix"),
    [
        ("import", MissingDependency, "ModuleNotFoundError: No module named 'no_such_framework'", "pip install"),
        ("library", EngineError, "libnuma.so.99: cannot open shared object", "apt-get install libnuma1"),
        ("exception", EngineError, "ValueError: head size 13 is not supported", "openllm doctor"),
        ("memory", OutOfMemory, "Memory ran out while loading", "smaller"),
        (
            "killed",
            EngineUnavailable,
            "was killed by SIGKILL (the kernel does so when memory runs out",
            "--max-num-seqs",
        ),
        ("crash", EngineUnavailable, "Segmentation fault, in string_at (__init__.py:", "openllm doctor"),
    ],
)
async def test_a_broken_load_says_why_and_what_mends_it(
    make_engine: MakeEngine, fault: str, kind: type[OpenLLMError], cause: str, fix: str
) -> None:
    """However a host dies at start, its root cause stands in the one line of the error, and the hint mends it."""
    engine = await make_engine(process=True, wait=False, break_load=fault, watch={"restarts": 0})
    with pytest.raises(OpenLLMError) as caught:
        await engine.wait_ready(20)
    assert type(caught.value) is kind
    assert cause in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None
    assert fix in caught.value.hint
