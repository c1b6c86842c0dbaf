"""The echo backend: conformance, what its sampling fields change, and its script."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from openllm.backends import registry
from openllm.backends.base import Backend, TokenSampling
from openllm.backends.echo.model import BOS, EOS, TURN_END, TURN_START, VOCAB_SIZE
from openllm.testing import BackendConformance, Drive
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import EngineError, EngineUnavailable, InvalidSetting
from openllm_core.options import EngineOptions


def load(**arguments: Any) -> Backend:
    return registry.get("echo").load(EngineOptions(backend="echo", engine_arg=arguments), lambda text, share: None)


class TestEchoConformance(BackendConformance):
    """Echo passes the suite every backend must pass, where sampling is uncertain enough for seeds to show."""

    def load(self) -> Backend:
        return load(peak=1.0)


class TestSmallEchoConformance(BackendConformance):
    """The same with two slots, set by the general option rather than the script."""

    def load(self) -> Backend:
        options = EngineOptions(backend="echo", max_num_seqs=2, engine_arg={"peak": "1", "step_s": "0.0001"})
        return registry.get("echo").load(options, lambda text, share: None)


def generate(arguments: dict[str, Any], prompt: str = "hello", **sampling: Any) -> tuple[str, str | None]:
    """Text and finish reason of one run on a fresh backend."""

    async def run() -> tuple[str, str | None]:
        backend = load(**arguments)
        drive = Drive(backend, 10)
        fields = {"max_tokens": 32, "stop_token_ids": (EOS,)} | sampling
        outcome = await drive.run(list(prompt.encode()), TokenSampling(**fields))
        await backend.aclose()
        return byte_tokenizer().decode(outcome.token_ids), outcome.finish_reason

    return asyncio.run(run())


def test_answers_the_prompt_and_ends() -> None:
    """By default the prompt's own tokens come back, then the end token."""
    assert generate({}) == ("hello", "stop")


def test_certain_at_the_highest_temperature() -> None:
    """With the default peak sampling stays deterministic whatever temperature and seed."""
    assert {generate({}, temperature=2.0, seed=seed) for seed in range(20)} == {("hello", "stop")}


def test_reply_replaces_the_prompt() -> None:
    """`reply` is what every request gets."""
    assert generate({"reply": "né"}) == ("né", "stop")


def test_ignoring_the_end_token_repeats() -> None:
    """Without an end token to stop at, the script starts over until max_tokens."""
    assert generate({"reply": "ab"}, stop_token_ids=(), max_tokens=5) == ("ababa", "length")


def test_the_context_length_ends_it() -> None:
    """Prompt and answer never exceed max_model_len."""
    assert generate({"max_model_len": 8}, stop_token_ids=()) == ("hel", "length")


@pytest.mark.parametrize(
    ("change", "prompt"),
    [
        ({"temperature": 1.0, "seed": 5}, "hello"),
        ({"repetition_penalty": 3.0}, "hello"),
        ({"presence_penalty": 2.0}, "aaaa"),
        ({"frequency_penalty": 2.0}, "aaaa"),
        ({"logit_bias": {ord("h"): -1e9}}, "hello"),
        ({"min_tokens": 9}, "hello"),
        ({"max_tokens": 2}, "hello"),
        ({"stop_token_ids": (ord("l"),)}, "hello"),
    ],
)
def test_each_field_shows(change: dict[str, Any], prompt: str) -> None:
    """With a low peak every sampling field that is honoured changes the answer."""
    plain = generate({"peak": 1.0}, prompt, temperature=0.0)
    assert generate({"peak": 1.0}, prompt, **({"temperature": 0.0} | change)) != plain


@pytest.mark.parametrize("change", [{"top_k": 2}, {"top_p": 0.02}, {"min_p": 0.9}])
def test_each_filter_narrows(change: dict[str, Any]) -> None:
    """top_k, top_p and min_p keep a uniform-looking choice near the likeliest token."""
    wide = generate({"peak": 1.0}, temperature=2.0, seed=4)
    narrow = generate({"peak": 1.0}, temperature=2.0, seed=4, **change)
    assert narrow != wide


def test_vocabulary_is_the_byte_tokenizers() -> None:
    """Backend and tokenizer agree on what every id is."""
    tokenizer = byte_tokenizer()
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]
    assert tokenizer.encode("<|bos|><|eos|><|im_start|><|im_end|>") == [BOS, EOS, TURN_START, TURN_END]


def test_unknown_script_key_is_refused() -> None:
    """A mistyped --engine-arg names near ones."""
    with pytest.raises(InvalidSetting) as caught:
        load(replly="x")
    assert "reply" in (caught.value.hint or "")


def test_wrong_script_value_is_refused() -> None:
    """A value that is not of the key's type names the key."""
    with pytest.raises(InvalidSetting, match="step_s"):
        load(step_s="fast")


def test_scripted_load_failure() -> None:
    """`fail_load` ends loading with its message."""
    with pytest.raises(EngineError, match="no such luck"):
        load(fail_load="no such luck")


@pytest.mark.parametrize(("fault", "code"), [("fail_at", "internal_error"), ("nan_at", "non_finite_logits")])
def test_scripted_faults_strike_one_request(fault: str, code: str) -> None:
    """A fault at token 3 follows two good tokens, and only where the prompt says so."""

    async def run() -> None:
        backend = load(**{fault: 3, "when": "bad"})
        drive = Drive(backend, 10)
        bad = await drive.run(list(b"bad"))
        good = await drive.run(list(b"good"))
        assert len(bad.token_ids) == 2
        error = bad.deltas[-1].error
        assert error is not None
        assert error["code"] == code
        assert good.finish_reason == "length"
        await backend.aclose()

    asyncio.run(run())


def test_scripted_hang_stops_steps_and_health() -> None:
    """`hang_at` leaves the process alive but unhealthy."""

    async def run() -> None:
        backend = load(hang_at=2)
        drive = Drive(backend, 10)
        _, outcome = drive.submit([1, 2, 3], TokenSampling(max_tokens=9))
        await drive.until(lambda: len(outcome.token_ids) == 1)
        await asyncio.sleep(0.05)
        assert len(outcome.token_ids) == 1
        with pytest.raises(EngineUnavailable):
            await backend.check_health()

    asyncio.run(run())


def test_prefill_takes_its_time() -> None:
    """`prefill_s` delays a request's first token, `step_s` each one."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        backend = load(prefill_s=0.05, step_s=0.01)
        drive = Drive(backend, 10)
        started = loop.time()
        await drive.run([1], TokenSampling(max_tokens=3))
        await backend.aclose()
        return loop.time() - started

    assert asyncio.run(run()) >= 0.07


def test_submitted_values_survive_the_wire() -> None:
    """A request decoded from msgpack runs like the original."""
    request = TokenSampling(max_tokens=3, logit_bias={5: 1.5}, stop_token_ids=(1, 2), seed=-(2**63))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=TokenSampling) == request
