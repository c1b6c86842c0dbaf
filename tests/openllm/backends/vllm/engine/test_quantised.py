"""Real weights that vLLM quantises while loading, by the method that our help and hints name; in the full run alone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.backends.vllm.engine.borrowed import Borrowed, engine
from tokenizers import Tokenizer

from openllm.backends.base import TokenSampling
from openllm.testing import Drive, Outcome

pytestmark = pytest.mark.timeout(600)


class TestDefaultModel:
    """SmolLM2-135M-Instruct, in the folder that OPENLLM_TEST_MODEL names."""

    __test__ = "OPENLLM_TEST_MODEL" in os.environ

    def test_fp8_per_channel_answers_as_plain_weights_do(self) -> None:
        """Eight bits leave the model what it knows: the capital of France."""
        folder = Path(os.environ["OPENLLM_TEST_MODEL"])
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        asked: list[int] = tokenizer.encode("The capital of France is").ids
        backend = engine(folder, quantization="fp8_per_channel", dtype="bfloat16")

        async def answer() -> Outcome:
            loan = Borrowed(backend)
            drive = Drive(loan, 120)
            outcome = drive.submit(asked, TokenSampling(max_tokens=8, temperature=0.0))[1]
            await drive.finish(outcome)
            await loan.aclose()
            await drive.ended()
            await backend.aclose()
            return outcome

        assert any("fp8_per_channel" in line for line in backend.info.decisions)
        assert "Paris" in tokenizer.decode(asyncio.run(answer()).token_ids)
