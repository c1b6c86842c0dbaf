"""What runs the snippets: the default model in a store of our own, and a server as the page itself starts it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
import pytest
from tests.docs.snippets import Snippet
from tests.e2e.conftest import ServerProcess, openllm_start

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):3000")
RUN_LIMIT_S = 150


@dataclass
class PageRun:
    """One page being followed from top to bottom: its working folder, its environment, the server it started."""

    folder: Path
    environ: dict[str, str]
    stack: ExitStack = field(default_factory=ExitStack)
    server: ServerProcess | None = None

    def follow(self, snippet: Snippet) -> None:
        """Do what a reader would do with the snippet."""
        if snippet.verb == "serve":
            self.serve(snippet)
        elif snippet.verb == "chat":
            self.chat(snippet)
        else:
            self.run(snippet)

    def serve(self, snippet: Snippet) -> None:
        """Start the server as the page says, on a free port instead of 3000."""
        self.stack.close()
        self.server, self.environ["OPENLLM_ENDPOINT"] = None, "http://127.0.0.1:9"  # nobody, should the start fail
        words = shlex.split(snippet.code.replace("python3 tools/dev.py start", "openllm start"))
        assert words[:2] == ["openllm", "start"], snippet.code
        log = self.folder / "server.log"
        self.server = self.stack.enter_context(openllm_start(log, *words[2:], environ=self.environ, cwd=self.folder))
        self.environ["OPENLLM_ENDPOINT"] = self.server.url

    def run(self, snippet: Snippet) -> None:
        """Run a program or a shell block; it must end well and print what the page says it prints."""
        code = self.here(snippet.code)
        if snippet.detail.startswith("with "):
            code = f"{code.rstrip()} {snippet.detail.removeprefix('with ')}"
        command = (
            [sys.executable, "-c", code] if snippet.language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        )
        done = subprocess.run(
            command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False
        )
        assert done.returncode == 0, f"{code}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        if snippet.detail.startswith("prints "):
            assert snippet.detail.removeprefix("prints ") in done.stdout, f"{code}\n--- stdout\n{done.stdout}"

    def chat(self, snippet: Snippet) -> None:
        """Type a line into a program on a terminal, wait until it asks for the next, and leave with Ctrl-D."""
        child = pexpect.spawn(
            "bash",
            ["-c", self.here(snippet.code)],
            cwd=str(self.folder),
            env={**self.environ, "TERM": "xterm", "NO_COLOR": "1"},  # type: ignore[arg-type]
            encoding="utf-8",
            timeout=RUN_LIMIT_S,
        )
        child.expect("› ")
        child.sendline(snippet.detail)
        child.expect(r"tok/s|tokens")
        child.expect("› ")
        child.sendeof()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0

    def here(self, code: str) -> str:
        """The code with the page's address replaced by that of the server under test."""
        if self.server is None:
            return code
        return ADDRESS.sub(self.server.url.removeprefix("http://"), code)


@pytest.fixture(scope="module")
def page_run(store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, PageRun]]:
    """Page -> its run; made on the first snippet of a page, ended with the module."""
    runs: dict[Path, PageRun] = {}

    class Runs(dict[Path, PageRun]):
        def __missing__(self, page: Path) -> PageRun:
            for other in runs.values():
                other.stack.close()  # pages come one after the other: their servers never run at the same time
            environ = {**os.environ, **store, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
            environ.pop("OPENLLM_ENDPOINT", None)
            runs[page] = self[page] = PageRun(tmp_path_factory.mktemp(page.stem), environ)
            return runs[page]

    yield Runs()
    for run in runs.values():
        run.stack.close()
