"""The root cause of a start that failed stands on the first line, with what mends it."""

from __future__ import annotations

import pytest

from openllm.backends.vllm import failure
from openllm_core.errors import EngineError, MissingDependency, OpenLLMError, OutOfMemory, UnsupportedFeature

HOLLOW = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}")
PRINTED = """\
(EngineCore pid=41) INFO 11-22 23:00:01 [core.py:120] Initializing a V1 LLM engine
(Worker pid=42) ERROR 11-22 23:00:02 [multiproc_executor.py:880] WorkerProc failed to start.
(Worker pid=42) ERROR 11-22 23:00:02 [multiproc_executor.py:880] Traceback (most recent call last):
(Worker pid=42) ERROR 11-22 23:00:02 [multiproc_executor.py:880]   File "x.py", line 1, in load
(Worker pid=42) ERROR 11-22 23:00:02 [multiproc_executor.py:880] ValueError: Head size 8 is not supported by CPU_ATTN.
(EngineCore pid=41) ERROR 11-22 23:00:03 [core.py:1500] Exception: WorkerProc initialization failed due to an exception
RuntimeError: Engine core initialization failed. See root cause above."""


def test_the_childs_cause_is_lifted() -> None:
    """Not vLLM's hollow last line, and without its prefixes."""
    found = failure.explain(HOLLOW, PRINTED.splitlines())
    assert found.message == "ValueError: Head size 8 is not supported by CPU_ATTN."


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), MissingDependency, "pip uninstall -y torchvision"),
        (ModuleNotFoundError("No module named 'xgrammar'"), MissingDependency, "pip install"),
        (ValueError("Available memory on node 0 (1.0/8.0 GiB) on startup is less than desired"), OutOfMemory, "Free"),
        (ValueError("To serve at least one request (0.5 GiB KV cache is needed, which is larger)"), OutOfMemory, "len"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory, "--gpu-memory-utilization"),
        (ValueError("Model architectures ['X'] are not supported for now."), UnsupportedFeature, "--backend pt"),
        (RuntimeError("InductorError: CppCompileError: C++ compile error"), EngineError, "--startup fast"),
        (RuntimeError("something else"), EngineError, "debug"),
    ],
)
def test_known_causes_have_their_class_and_fix(error: Exception, kind: type[OpenLLMError], hint: str) -> None:
    """What users meet most, each with the command that mends it."""
    found = failure.explain(error, [])
    assert type(found) is kind
    assert str(error)[:20] in found.message
    assert hint in str(found.hint)


def test_our_own_errors_pass() -> None:
    """What was already told well is not told again."""
    ours = OutOfMemory("no")
    assert failure.explain(ours, []) is ours
