"""Compiles guides beside the steps, so that a bad one is refused before its request is queued and a good one is ready.

`backend` calls `check` with what a request may bring; vLLM's compiler keeps what it made, and the request that follows
finds it there. It knows of grammars, not of sequences.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.structured_output.request import StructuredOutputRequest

from openllm_core.errors import InvalidRequest

from ..base import BackendRequest, TokenGuide, TokenSampling
from .core import Core
from .sampling import guide_refusal

LIMIT_S = 20.0
"""Seconds a guide may take to compile; vLLM itself would wait for ever."""
POLL_S = 0.002
CHECKED = "guide"  # name of a request that is made for its grammar and never run


async def check(guide: TokenGuide, core: Core, begin: Callable[[BackendRequest], EngineCoreRequest]) -> None:
    """Compile a guide.

    Args:
        begin: makes the core's request, which checks the guide's form; may take a second, so it runs in a thread.

    Raises:
        InvalidRequest: it has a wrong form, cannot be compiled, or not in time.
    """
    found = await asyncio.to_thread(_begin, guide, core, begin)
    end = time.monotonic() + LIMIT_S
    while not found.is_grammar_ready:
        if time.monotonic() > end:
            raise InvalidRequest(f"{guide.param}: it takes longer than {LIMIT_S:g} s to compile.", param=guide.param)
        await asyncio.sleep(POLL_S)
    if isinstance(found.grammar, Exception):
        raise guide_refusal(found.grammar, guide) from found.grammar


def _begin(
    guide: TokenGuide, core: Core, begin: Callable[[BackendRequest], EngineCoreRequest]
) -> StructuredOutputRequest:
    return core.compile(begin(BackendRequest(CHECKED, [0], TokenSampling(max_tokens=1, guide=guide))))
