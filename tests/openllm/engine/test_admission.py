"""What is decided about a prompt before it waits for a slot: how long it is, exactly."""

from __future__ import annotations

import pytest

from openllm.backends.base import BackendInfo, Capabilities
from openllm.engine import admission
from openllm_core.errors import ContextLengthExceeded

from .conftest import MakeEngine, request, text_of


async def test_a_text_is_measured_in_tokens(make_engine: MakeEngine) -> None:
    """One whose characters are fewer than the context's tokens, and whose tokens are more, is refused by its exact number."""
    engine = await make_engine(max_model_len=64, reply="fine")
    with pytest.raises(ContextLengthExceeded, match="80") as caught:
        await engine.add(request("é" * 40))
    assert caught.value.param == "prompt"
    assert engine.metrics.prompt_tokens == engine.queue_depth == engine.num_running == 0
    assert await text_of(engine, "é" * 20) == "fine"


def test_a_model_may_take_shorter_prompts_than_its_context() -> None:
    """An encoder's prompt has a limit of its own, however much room its answer has."""
    info = BackendInfo("fake", Capabilities(), max_model_len=100, max_prompt_len=10, max_batch=1, vocab_size=10)
    assert admission.fitting([1] * 10, info) == [1] * 10
    with pytest.raises(ContextLengthExceeded, match="11"):
        admission.fitting([1] * 11, info)
