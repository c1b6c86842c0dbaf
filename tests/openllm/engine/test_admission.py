"""What is decided about a prompt before it waits for a slot: how long it is, exactly."""

from __future__ import annotations

import pytest

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
