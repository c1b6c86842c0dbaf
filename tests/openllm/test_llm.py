"""openllm.LLM: a model in a program, sync and async, in a host process or embedded."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny_adapters import blank_adapter

import openllm
from openllm import LLM, SamplingParams
from openllm_core.errors import (
    AdapterNotFound,
    ContextLengthExceeded,
    InvalidRequest,
    InvalidSetting,
    ModelNotFound,
    UnknownModel,
)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """One embedded echo model for the tests that only generate."""
    with LLM(backend="echo", embedded=True) as found:
        yield found


def test_generate_one(llm: LLM) -> None:
    """One prompt gives one Generation, whose str is its text."""
    found = llm.generate("hello")
    assert str(found) == found.text == "hello"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.prompt_tokens == 5
    assert bytes(found.choices[0].token_ids[:-1]) == b"hello"


def test_generate_many(llm: LLM) -> None:
    """A list gives a list in the same order, however many more than slots there are."""
    prompts = [f"prompt {i}" for i in range(300)]
    assert [found.text for found in llm.generate(prompts)] == prompts
    assert llm.generate([]) == []


def test_fields_and_params(llm: LLM) -> None:
    """Single fields and SamplingParams mean the same; both at once are refused."""
    assert llm.generate("hello", max_tokens=2, stop="zz").text == "he"
    assert llm.generate("hello", SamplingParams(max_tokens=2)).text == "he"
    with pytest.raises(TypeError):
        llm.generate("hello", SamplingParams(), max_tokens=2)


def test_several_choices(llm: LLM) -> None:
    """n choices are all there, with logprobs where asked for."""
    found = llm.generate("ab", SamplingParams(n=2, logprobs=1))
    assert [choice.text for choice in found.choices] == ["ab", "ab"]
    logprobs = found.choices[1].logprobs
    assert logprobs is not None
    assert len(logprobs) == 3


def test_stream_joins_to_the_answer(llm: LLM) -> None:
    """The deltas' texts joined are the one-shot text."""
    pieces = [delta.text for delta in llm.generate_stream("piece by piece")]
    assert len(pieces) > 5
    assert "".join(pieces) == llm.generate("piece by piece").text


def test_leaving_a_stream_aborts_it(llm: LLM) -> None:
    """A stream left early frees its place."""
    for delta in llm.generate_stream("x" * 500):
        assert delta.text
        break
    assert llm._engine is not None
    assert llm._engine.num_running == 0


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"temperature": 3}, InvalidRequest, "temperature"),
        ({"max_tokens": 10**6}, ContextLengthExceeded, "max_tokens"),
        ({"no_such": 1}, InvalidRequest, "no_such"),
    ],
)
def test_refusals_name_the_field(llm: LLM, fields: dict[str, object], kind: type[Exception], param: str) -> None:
    """A bad value is refused by name; the next request works."""
    with pytest.raises(kind) as caught:
        llm.generate("x", **fields)
    assert getattr(caught.value, "param", None) == param
    assert llm.generate("x").text == "x"


def test_one_bad_prompt_of_a_batch(llm: LLM) -> None:
    """A batch with a prompt that does not fit is refused with that prompt's error."""
    with pytest.raises(ContextLengthExceeded):
        llm.generate(["fine", "x" * 5000])


async def test_async_calls(llm: LLM) -> None:
    """agenerate and agenerate_stream work from any event loop, many at a time."""
    found = await asyncio.gather(*(llm.agenerate(f"a{i}") for i in range(20)))
    assert [one.text for one in found] == [f"a{i}" for i in range(20)]
    assert [one.text for one in await llm.agenerate(["b", "c"])] == ["b", "c"]
    assert "".join([delta.text async for delta in llm.agenerate_stream("stream")]) == "stream"


async def test_cancelling_aborts() -> None:
    """A cancelled agenerate frees its place in the batch."""
    async with LLM(backend="echo", embedded=True, engine_arg={"step_s": 0.02}) as llm:
        task = asyncio.ensure_future(llm.agenerate("x" * 500))
        engine = llm._engine
        assert engine is not None
        async with asyncio.timeout(5):
            while engine.num_running == 0:
                await asyncio.sleep(0.005)
            task.cancel()
            while engine.num_running:
                await asyncio.sleep(0.005)
    assert task.cancelled()


def test_threads_share_one_batch(llm: LLM) -> None:
    """Calls from several threads run side by side."""
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: llm.generate(f"thread {i}").text})) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {i: f"thread {i}" for i in range(8)}


def test_a_host_process_without_a_main_guard(tmp_path: Path) -> None:
    """A plain script generates in a host process, prints nothing of its own, and leaves no process behind."""
    script = tmp_path / "script.py"
    script.write_text(
        "import openllm\n"
        "llm = openllm.LLM(backend='echo')\n"
        "print(llm.generate('no guard').text, llm._engine.host_pid)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    *text, pid = done.stdout.split()
    assert text == ["no", "guard"]
    assert done.stderr == ""
    end = time.monotonic() + 10  # init may take a moment to collect what a dead parent left
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.05)


def test_closing_and_using_again() -> None:
    """close ends the host; the next use starts another."""
    llm = LLM(backend="echo")
    assert llm.generate("a").text == "a"
    assert llm._engine is not None
    pid = llm._engine.host_pid
    assert pid is not None
    llm.close()
    llm.close()
    assert not Path(f"/proc/{pid}").exists()
    assert llm.generate("b").text == "b"
    llm.close()


def test_a_failed_load_is_told_and_may_be_tried_again() -> None:
    """The error of loading reaches the caller each time."""
    llm = LLM(backend="echo", embedded=True, engine_arg={"fail_load": "broken"})
    for _ in range(2):
        with pytest.raises(openllm.OpenLLMError, match="broken"):
            llm.generate("x")
    llm.close()


def test_a_failed_load_is_told_to_all_who_wait() -> None:
    """Several prompts that wait for one load get its reason, as does the next call, which loads again."""
    llm = LLM(backend="echo", embedded=True, engine_arg={"fail_load": "broken", "load_s": 0.1})
    for _ in range(2):
        with pytest.raises(openllm.OpenLLMError, match="broken"):
            llm.generate(["a", "b", "c"])
        assert llm._engine is None
    llm.close()


async def test_a_failed_load_is_told_to_each_call_that_waits() -> None:
    """Calls at the same time each get the reason, and what was loaded is closed."""
    llm = LLM(backend="echo", embedded=True, engine_arg={"fail_load": "broken", "load_s": 0.2})
    calls = [asyncio.ensure_future(llm.agenerate(text)) for text in "abc"]
    async with asyncio.timeout(5):
        while (engine := llm._engine) is None:
            await asyncio.sleep(0.005)
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(error) for error in errors] == [str(errors[0])] * 3 and "broken" in str(errors[0])
    assert engine.state == "closed"
    await llm.aclose()


def test_unknown_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there is refused without starting anything."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    llm = LLM(os.fspath(tmp_path / "nothing"))
    with pytest.raises((UnknownModel, ModelNotFound)):
        llm.start()
    llm.close()


def test_unknown_option() -> None:
    """An option EngineOptions does not have is refused by name, as are those only the program sets."""
    for name in ("devize", "model_path"):
        with pytest.raises(InvalidSetting, match=name):
            LLM(**{name: "x"})
    with pytest.raises(InvalidSetting, match="dtype"):
        LLM(dtype="float99")


def test_adapters_by_name(tmp_path: Path) -> None:
    """`adapter_id` as on the command line; the unnamed one is the default, `adapter_name` chooses, `base` is none."""
    ids = (str(blank_adapter(tmp_path / "a", echo="AAA")), f"{blank_adapter(tmp_path / 'b', echo='BBB')}:beta")
    with LLM(backend="echo", embedded=True, adapter_id=ids) as found:
        assert found.has_adapters
        assert found.generate("hello").text == "AAA"
        assert found.generate("hello", adapter_name="beta").text == "BBB"
        assert [one.text for one in found.generate(["hello"] * 3, adapter_name="beta")] == ["BBB"] * 3
        assert found.generate("hello", SamplingParams(max_tokens=9), adapter_name="base").text == "hello"
        with pytest.raises(AdapterNotFound):
            found.generate("hello", adapter_name="nobody")
    assert not LLM(backend="echo", embedded=True).has_adapters
