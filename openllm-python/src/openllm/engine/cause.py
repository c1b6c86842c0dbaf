"""Why an engine host ended, in one line, and what mends it: from its exit, from what it printed, from what was raised.

Called by the process that watches a host and by the host itself. A new kind of failure gets one line in `FIXES`.
It must not know of requests or of a concrete backend.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

from openllm_core.errors import EngineUnavailable

MAX_CHARS = 500

_EXCEPTION_LINE = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Failure|Interrupt|Exit)\b(?::\s*\S.*)?$"
)
_CHAINED = ("The above exception was", "During handling of the above exception")
_FATAL_LINE = re.compile(
    r"Fatal Python error|Segmentation fault|Illegal instruction|Killed|CUDA error|out of memory", re.I
)
_CHILD = re.compile(r"^\((?:EngineCore|Worker|APIServer)[^)]*\)\s*(?:[A-Z]+ [\d-]+ [\d:.]+ \[[^\]]*\]\s?)?")
_POINTS_ELSEWHERE = re.compile(r"(?i)root cause above|engine core (?:initialization )?failed|worker failed")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)')

SMALLER = (
    "Use a smaller model, --dtype bfloat16, a smaller --max-model-len or --max-num-seqs; `openllm doctor` counts it."
)
SYSTEM_PACKAGES = {
    "libnuma.so": "libnuma1",
    "libgomp.so": "libgomp1",
    "libgl.so": "libgl1",
    "libtcmalloc": "libtcmalloc-minimal4",
    "libopenblas": "libopenblas0",
    "libstdc++.so": "libstdc++6",
}
"""Start of a shared library's name -> the Debian package that has it."""

FIXES: tuple[tuple[str, str], ...] = (
    (
        r"torchvision::nms",
        "`pip uninstall -y torchvision torchaudio torchcodec`: no build of them matches this torch.",
    ),
    (r"No module named '(?P<name>[\w.]+)'", "`pip install {package}`; `openllm doctor` checks the whole installation."),
    (
        r"(?P<library>lib[\w.+-]+): cannot open shared object file",
        "{library_fix}",
    ),
    (
        r"undefined symbol|cannot import name|has no attribute",
        "Packages do not fit together: `openllm doctor` names them.",
    ),
    (r"CUDA driver|no CUDA-capable device|NVIDIA driver", "Check `nvidia-smi`, or start with --device cpu."),
    (r"out of memory|OutOfMemory|bad_alloc|MemoryError|[Cc]annot allocate memory|can't allocate", SMALLER),
    (r"No space left on device", "Free space on the disk or in /dev/shm; `df -h` shows which is full."),
    (r"Too many open files", "Raise the limit: `ulimit -n 65536`."),
    (
        r"Segmentation fault|Illegal instruction|Bus error|Aborted|Floating point exception",
        "Native code crashed: `openllm doctor` checks the versions; try another --dtype or --backend.",
    ),
    (r"trust_remote_code", "Add --trust-remote-code if you trust who wrote the model's code."),
)
"""Pattern in a root cause -> what mends it. The first match counts."""

LOOK = "`openllm doctor` checks this machine; --debug shows all that the engine printed."

PACKAGES = {"vllm": "'openllm[vllm]'", "peft": "'openllm[fine-tune]'", "gptqmodel": "'openllm[gptq]'", "PIL": "pillow"}
"""Import name -> what to install, where the two differ."""


def explain(ended: os.waitid_result | None, lines: Sequence[str], oom_kills: int = 0) -> EngineUnavailable:
    """The error for a host that ended by itself.

    Args:
        ended: how, as `os.waitid` says; None when it still lives (only its channel closed).
        lines: the last it printed.
        oom_kills: processes the kernel killed for want of memory while it lived, in its control group.
    """
    how, hint = "ended", None
    if ended is not None:
        how = f"ended with status {ended.si_status}"
        if ended.si_code != os.CLD_EXITED:
            how = f"was killed by {signal_name(ended.si_status)}"
        if ended.si_status == signal.SIGKILL and ended.si_code != os.CLD_EXITED:
            counted = f"; it counted {oom_kills}" if oom_kills else ""
            how += f" (the kernel does so when memory runs out{counted})"
            hint = SMALLER
    root = root_cause(lines)
    if hint is None:
        hint = fix_for(f"{how} {root or ''}{_fatal_name(ended)}")
    return EngineUnavailable(f"The engine host {how}" + (f": {root}" if root else "."), hint=hint or LOOK)


def fix_for(cause: str) -> str | None:
    """What mends a root cause; None when we do not know."""
    for pattern, fix in FIXES:
        if found := re.search(pattern, cause):
            return fix.format(**_facts(found.groupdict()))
    return None


def _facts(groups: dict[str, str | None]) -> dict[str, str]:
    """What a fix may name, from what its pattern caught."""
    module = (groups.get("name") or "").partition(".")[0]
    library = groups.get("library") or ""
    package = next((p for start, p in SYSTEM_PACKAGES.items() if library.lower().startswith(start)), None)
    if package:
        library_fix = f"`apt-get install {package}` (Debian, Ubuntu) brings {library}."
    elif re.match(r"lib(cu|nv|nccl)", library):
        library_fix = f"{library} belongs to a CUDA build: install the build for this machine, or add --device cpu."
    else:
        library_fix = f"Install the system package that has {library}, or reinstall the Python package that needs it."
    return {"package": PACKAGES.get(module, module), "library_fix": library_fix}


def _fatal_name(ended: os.waitid_result | None) -> str:
    if ended is None or ended.si_code == os.CLD_EXITED:
        return ""
    names = {signal.SIGSEGV: "Segmentation fault", signal.SIGILL: "Illegal instruction", signal.SIGABRT: "Aborted"}
    names |= {signal.SIGBUS: "Bus error", signal.SIGFPE: "Floating point exception"}
    return " " + next((name for number, name in names.items() if number == ended.si_status), "")


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def root_cause(lines: Sequence[str]) -> str | None:
    """The line that says why: the first exception line of the last traceback chain, else the last fatal one."""
    start = 0
    for index, line in enumerate(lines):
        if line.lstrip().startswith("Traceback (most recent call last)"):
            chained = any(before.strip().startswith(_CHAINED) for before in lines[max(0, index - 3) : index])
            if not chained:
                start = index
    fatal = next((index for index, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if (
        fatal is not None
    ):  # written by faulthandler when native code crashed: nothing raised before it ended the process
        return (lines[fatal].strip() + _where(lines[fatal:]))[:MAX_CHARS]
    for line in lines[start:]:
        if _EXCEPTION_LINE.match(line.strip()):
            return line.strip()[:MAX_CHARS]
    for line in reversed(lines):
        if _FATAL_LINE.search(line):
            return line.strip()[:MAX_CHARS]
    return next((line.strip()[:MAX_CHARS] for line in reversed(lines) if line.strip()), None)


def childs_cause(message: str, lines: Sequence[str]) -> str | None:
    """What a framework's own child printed, where the host's error only points to it; None where it does not.

    Args:
        message: of the error that the host reported.
        lines: all that the host and its children printed; a child's lines carry its name in front.
    """
    if not _POINTS_ELSEWHERE.search(message):
        return None
    said = [_CHILD.sub("", line) for line in lines if _CHILD.match(line)]
    return root_cause([line for line in said if line.strip()]) if said else None


def _where(lines: Sequence[str]) -> str:
    """The innermost frame of the thread that crashed, without its folder."""
    current = next((i for i, line in enumerate(lines) if line.startswith(("Current thread", "Stack"))), None)
    if current is None or current + 1 >= len(lines):
        return ""
    frame = _FRAME.match(lines[current + 1])
    if frame is None:
        return ""
    return f", in {frame['function']} ({os.path.basename(frame['file'])}:{frame['line']})"
