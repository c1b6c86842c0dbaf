"""Speculative decoding changes how fast tokens come, not which.

The last file of this folder by its name: n-gram proposals import numba, after which vLLM cannot set up another engine in
the same process (its scan of modules trips over one of numba's). An engine host sets up one.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.openllm.backends.vllm.engine.borrowed import engine
from tests.openllm.backends.vllm.engine.test_engine import run

from openllm.backends.base import TokenSampling
from openllm_core.errors import InvalidSetting

pytestmark = pytest.mark.timeout(600)


def test_the_speculative_configuration_is_json(folder: Path) -> None:
    """An n-gram proposer changes no token; what is no object is refused by the flag's name."""
    with pytest.raises(InvalidSetting, match="--speculative-config"):
        engine(folder, speculative_config="ngram")
    plain = engine(folder)
    (expected,) = run(plain, TokenSampling(max_tokens=24, temperature=0.0))
    asyncio.run(plain.aclose())
    proposer = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    speculative = engine(folder, speculative_config=json.dumps(proposer))
    (found,) = run(speculative, TokenSampling(max_tokens=24, temperature=0.0))
    asyncio.run(speculative.aclose())
    assert found.token_ids == expected.token_ids
