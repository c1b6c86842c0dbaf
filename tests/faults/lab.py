"""Where scenarios get their servers: `openllm start` for real, on any backend, with a small random model where it needs one.

One server of each backend is kept for all scenarios that leave it running; what a scenario ends, floods or starves is its own.
Knows nothing of single faults.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

import attrs
import httpx
import psutil
from tests.e2e.conftest import ServerProcess, free_port, openllm_start
from tests.tiny_models import tiny_checkpoint

MODEL = "m"
CONTEXT = 16_384
"""Tokens of prompt and answer that every backend's server takes, so that a stream can outlast what is done to it."""
SLOTS = 8
STEP_S = 0.005
COMPLETIONS = "/v1/completions"


@attrs.frozen
class Lab:
    """Servers of one backend.

    Attributes:
        folder: for whatever a scenario writes.
        vllm_python: finds the Python that has vLLM, or skips the test.
        backend: the one scenarios run on.
    """

    folder: Path
    vllm_python: Callable[[], str]
    backend: str = "echo"
    _kept: dict[str, tuple[contextlib.ExitStack, ServerProcess]] = attrs.field(factory=dict, alias="kept")

    def on(self, backend: str) -> Lab:
        """The same lab on another backend."""
        return attrs.evolve(self, backend=backend)

    def server(self) -> ServerProcess:
        """The server of this backend that scenarios share, ready and idle. They leave it able to serve."""
        kept = self._kept.get(self.backend)
        if kept is not None and kept[1].process.poll() is not None:
            self.forget()
            kept = None
        if kept is None:
            stack = contextlib.ExitStack()
            server = stack.enter_context(self.own("--stall-timeout", "3", "--restarts", "100"))
            kept = self._kept[self.backend] = (stack, server)
        kept[1].wait_for(200)
        return kept[1]

    @contextlib.contextmanager
    def own(
        self, *arguments: str, slots: int = SLOTS, environ: dict[str, str] | None = None, **script: Any
    ) -> Generator[ServerProcess]:
        """A server for one scenario, over HTTP and gRPC, until it is ready.

        Args:
            arguments: further ones of `openllm start`.
            slots: sequences that run at once.
            environ: further variables.
            script: what the echo backend is told to do; the others ignore it.
        """
        words = [*self._words(script), "--max-num-seqs", str(slots), *arguments]
        variables = self._home() | (environ or {})
        with openllm_start(self._log(), *words, environ=variables, python=self._python(), grpc=True) as server:
            yield server

    @contextlib.contextmanager
    def bare(
        self,
        *arguments: str,
        before: tuple[str, ...] = (),
        until: str = "/readyz",
        environ: dict[str, str] | None = None,
        output: int | IO[bytes] | None = None,
        **script: Any,
    ) -> Generator[ServerProcess]:
        """A server whose streams, wrapper and moment are the scenario's own; whatever is left of it is killed.

        Args:
            arguments, environ, script: as for `own`.
            before: the program that runs it, and its arguments.
            until: the route that must answer 200 before the scenario goes on.
            output: where its stdout and stderr go; default: its log.
        """
        port = free_port()
        command = [
            *before,
            self._python(),
            "-m",
            "openllm",
            "start",
            *self._words(script),
            "--port",
            str(port),
            *arguments,
        ]
        log = self._log()
        variables = os.environ | self._home() | (environ or {})
        with log.open("wb") as sink:
            to = sink if output is None else output
            process = subprocess.Popen(command, env=variables, stdout=to, stderr=to)
        server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
        try:
            server.wait_for(200, path=until, within_s=180)
            yield server
        finally:
            if process.poll() is None:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
            process.wait()

    def forget(self) -> None:
        """End the shared server of this backend; the next scenario starts another one."""
        kept = self._kept.pop(self.backend, None)
        if kept is not None:
            kept[0].close()

    def _words(self, script: dict[str, Any]) -> list[str]:
        named = ["--served-model-name", MODEL]
        if self.backend == "echo":
            told = {"max_model_len": CONTEXT, "step_s": STEP_S, "embed": 8} | script
            return ["--backend", "echo", *(f"--engine-arg={key}={value}" for key, value in told.items()), *named]
        words = [str(long_model(self.folder)), "--backend", self.backend, "--startup", "fast"]
        return [*words, "--max-model-len", str(CONTEXT), *named]

    def _python(self) -> str:
        return self.vllm_python() if self.backend == "vllm" else sys.executable

    def _home(self) -> dict[str, str]:
        return {"BENTOML_HOME": str(self.folder / "bentoml"), "OPENLLM_HOME": str(self.folder / "cache")}

    def _log(self) -> Path:
        return self.folder / f"{self.backend}-{len(list(self.folder.glob('*.log')))}.log"


def long_model(folder: Path) -> Path:
    """A tiny Llama that takes `CONTEXT` tokens: rotary positions need no weights."""
    target = folder / "long-llama"
    if not target.exists():
        plain = tiny_checkpoint("llama", folder, wide=True)
        shutil.copytree(plain, target)
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}), encoding="utf-8")
    return target


def body(prompt: str = "abc", **more: Any) -> dict[str, Any]:
    """A short completion."""
    return {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, **more}


def endless(**more: Any) -> dict[str, Any]:
    """A stream that nobody will see the end of."""
    return body(max_tokens=CONTEXT - 64, ignore_eos=True, stream=True, **more)


def client(server: ServerProcess) -> httpx.AsyncClient:
    """An HTTP client with room for every connection a scenario wants."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits)
