"""From what a host printed and how it ended to one line that says why, and one that mends it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from openllm.engine.cause import LOOK, childs_cause, explain, fix_for, root_cause


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["just talk"], "just talk"),
        (["Traceback (most recent call last):", "  File x", "ValueError: bad", "after"], "ValueError: bad"),
        (
            [
                "Traceback (most recent call last):",
                "KeyError: 'root'",
                "",
                "The above exception was the direct cause of the following exception:",
                "",
                "Traceback (most recent call last):",
                "RuntimeError: shell",
            ],
            "KeyError: 'root'",
        ),
        (["Fatal Python error: Segmentation fault", "", "Thread 0x1:"], "Fatal Python error: Segmentation fault"),
        (
            [
                "Fatal Python error: Segmentation fault",
                "",
                "Thread 0x1 (most recent call first):",
                '  File "/a/b.py", line 1 in idle',
                "Current thread 0x2 (most recent call first):",
                '  File "/x/torch/_ops.py", line 755 in __call__',
                '  File "/x/other.py", line 5 in run',
                "Traceback (most recent call last):",
                "ValueError: an older one",
            ],
            "Fatal Python error: Segmentation fault, in __call__ (_ops.py:755)",
        ),
        (
            ["torch.cuda.OutOfMemoryError: CUDA out of memory. Tried"],
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried",
        ),
    ],
)
def test_root_cause(lines: list[str], expected: str | None) -> None:
    """Of what a host printed the line that says why is found: the cause of a chain, not its shell."""
    assert root_cause(lines) == expected


@pytest.mark.parametrize(
    ("cause", "fix"),
    [
        ("RuntimeError: operator torchvision::nms does not exist", "pip uninstall -y torchvision"),
        ("ModuleNotFoundError: No module named 'vllm.engine'", "pip install 'openllm[vllm]'"),
        ("ModuleNotFoundError: No module named 'sentencepiece'", "pip install sentencepiece"),
        ("ImportError: libGL.so.1: cannot open shared object file: No such file", "apt-get install libgl1"),
        ("ImportError: libcudart.so.12: cannot open shared object file", "--device cpu"),
        ("OSError: libfoo.so.3: cannot open shared object file", "libfoo.so.3"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "smaller"),
        ("std::bad_alloc", "smaller"),
        ("OSError: [Errno 28] No space left on device", "/dev/shm"),
        ("ImportError: cannot import name 'no_init_weights'", "openllm doctor"),
    ],
)
def test_known_causes_have_a_fix(cause: str, fix: str) -> None:
    """What is known to mend a cause is named."""
    found = fix_for(cause)
    assert found is not None
    assert fix in found


def test_an_unknown_cause_has_no_invented_fix() -> None:
    """Where nothing is known nothing is claimed; the error then says where to look."""
    assert fix_for("ValueError: no idea") is None


def test_a_child_of_the_framework_is_quoted() -> None:
    """Where the host's error only points to a process of the framework, that one's own root cause is taken."""
    lines = [
        "(EngineCore_DP0 pid=12) ERROR 11-22 23:00:00 [core.py:843] Traceback (most recent call last):",
        '(EngineCore_DP0 pid=12) ERROR 11-22 23:00:00 [core.py:843]   File "/x/core.py", line 8, in run',
        "(EngineCore_DP0 pid=12) ERROR 11-22 23:00:00 [core.py:843] ValueError: No available memory for the cache blocks.",
        "Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    message = "RuntimeError: Engine core initialization failed. See root cause above."
    assert childs_cause(message, lines) == "ValueError: No available memory for the cache blocks."
    assert childs_cause("ValueError: its own", lines) is None
    assert childs_cause(message, lines[3:]) is None


def ended(code: str) -> os.waitid_result:
    """How a real process that ran `code` ended, before it is reaped."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stderr=subprocess.DEVNULL) as process:
        found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found


def test_how_it_ended_is_told() -> None:
    """Exit status, signal and the kernel's count of killed processes are named, each with what to do."""
    plain = explain(ended("raise SystemExit(4)"), [])
    assert plain.message == "The engine host ended with status 4."
    assert plain.hint == LOOK
    killed = explain(ended("import os; os.kill(os.getpid(), 9)"), ["loading"], 2)
    assert killed.message == (
        "The engine host was killed by SIGKILL (the kernel does so when memory runs out; it counted 2): loading"
    )
    assert killed.hint is not None
    assert "--max-model-len" in killed.hint
    aborted = explain(ended("import os; os.abort()"), [])
    assert aborted.message == "The engine host was killed by SIGABRT."
    assert aborted.hint is not None
    assert "Native code crashed" in aborted.hint
    assert explain(None, []).message == "The engine host ended."
