"""A host started before there is an engine for it: taken by the first life that fits, ended when nobody takes it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from openllm.backends.echo import launch as echo_launch
from openllm.backends.registry import RegisteredBackend
from openllm.engine import host
from openllm.engine.channel import Channel
from openllm.engine.process import EarlyHost
from openllm_core.options import EngineOptions

from .conftest import MakeEngine, text_of
from .test_engine import eventually

ECHO = EngineOptions(backend="echo")


def pid_of(early: EarlyHost) -> int:
    assert early._spawned is not None
    return early._spawned._process.pid


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_the_first_life_takes_the_early_host_and_later_ones_are_new(make_engine: MakeEngine) -> None:
    """The engine's host is the process that was there already; when it dies, a new one follows."""
    early = EarlyHost(ECHO)
    pid = pid_of(early)
    engine = await make_engine(process=True, engine={"launch": early.launch})
    assert engine.host_pid == pid
    assert await text_of(engine, "early") == "early"
    early.close()  # nothing left to close
    assert runs(pid)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: engine.host_pid not in (pid, None), 10)
    await engine.wait_ready(20)
    assert await text_of(engine, "late") == "late"


async def test_a_host_with_another_environment_is_not_taken(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that ask for other variables than the early host has get a host of their own; the early one ends."""
    early = EarlyHost(ECHO)
    pid = pid_of(early)
    monkeypatch.setattr(echo_launch, "environment", lambda *_: {"OPENLLM_TEST_MARK": "1"})
    engine = await make_engine(process=True, engine={"launch": early.launch})
    assert engine.host_pid not in (pid, None)
    assert not runs(pid)


def test_close_ends_a_host_that_nobody_took() -> None:
    """A start that fails after the model was found leaves no process."""
    early = EarlyHost(ECHO)
    pid = pid_of(early)
    assert runs(pid)
    early.close()
    early.close()
    assert not runs(pid)


def test_preload_imports_what_the_backend_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that `launch.PRELOAD` names is imported; collecting garbage goes on afterwards."""
    monkeypatch.setattr(echo_launch, "PRELOAD", "openllm.backends.echo.script", raising=False)
    monkeypatch.delitem(sys.modules, "openllm.backends.echo.script", raising=False)
    host.preload("echo")
    assert "openllm.backends.echo.script" in sys.modules
    assert gc.isenabled()
    gc.unfreeze()


def test_a_preload_that_fails_is_left_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that does not import says so when the model is loaded, not before."""
    states: list[Any] = []

    def preload(_: RegisteredBackend) -> None:
        states.append(gc.isenabled())
        raise ModuleNotFoundError("no such framework")

    monkeypatch.setattr(RegisteredBackend, "preload", preload)
    host.preload("pt")
    assert (states, gc.isenabled()) == ([False], True)


def test_a_backend_without_preload_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PRELOAD` is optional."""
    monkeypatch.setattr(RegisteredBackend, "_launch", lambda _: SimpleNamespace())
    RegisteredBackend("mine", "my_backend").preload()


def test_start_starts_the_host_before_it_imports_the_server(tmp_path: Path) -> None:
    """When the host is started, the server's own libraries are yet to be imported: both happen at once."""
    code = (
        "import sys\n"
        "from openllm.engine import process\n"
        "def early(options):\n"
        "    late = {'openllm.service', 'openllm.compose', 'starlette', 'uvicorn', 'jinja2', 'openllm_core.schema'}\n"
        "    print(options.backend, sorted(late & set(sys.modules)))\n"
        "    raise SystemExit(0)\n"
        "process.EarlyHost = early\n"
        "from openllm.cli import main\n"
        "main(['start', '--backend', 'echo', '--port', '0'])\n"
    )
    environ = os.environ | {"BENTOML_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout == "echo []\n", done.stderr


async def test_loading_waits_for_the_preload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that import one package from two ends see it half made, so what is loaded comes after what is preloaded."""
    order: list[str] = []
    may_end = threading.Event()

    def preload() -> None:
        may_end.wait(30)
        order.append("preloaded")

    def load(_: RegisteredBackend, options: EngineOptions, progress: Any) -> Any:
        order.append("loaded")
        return "a backend"

    monkeypatch.setattr(RegisteredBackend, "load", load)
    preloading = threading.Thread(target=preload)
    preloading.start()
    session = host.HostSession(lambda status: None, preloading)
    loading = asyncio.create_task(session._load(ECHO, cast("Channel", None)))
    await asyncio.sleep(0.1)
    assert order == []
    may_end.set()
    assert await loading == "a backend"
    assert order == ["preloaded", "loaded"]
