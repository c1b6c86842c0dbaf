"""Whether a guide can be obeyed, asked of the host before the request stands in line.

`Engine.add` calls `check`. A grammar can only be judged where it is compiled, and that is beside the model; a request that
found out there would first have waited for its slot. It must not know what a grammar is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from openllm_core.errors import InvalidRequest, Overloaded, from_dict

from ..backends.base import TokenGuide
from .channel import CheckGuide
from .questions import Questions

REMEMBERED = 256
"""Guides whose verdict is kept: a program sends the same few again and again."""
MAX_CHECKS = 64
"""Guides being checked at once; compiling costs the processor that the running requests need."""


class Guides:
    """Verdicts on guides, each asked for once."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._verdicts: OrderedDict[bytes, dict[str, Any] | None] = OrderedDict()  # None: it can be obeyed
        self._under_way = 0

    async def check(self, guide: TokenGuide | None) -> None:
        """Return if a sequence can be held to it; None is no guide.

        Raises:
            InvalidRequest: it cannot, or not now where `retry_after_s` is set, and then it is asked for again; `param` is
                the guide's.
            Overloaded: too many others are being checked.
            EngineError: the host went down.
        """
        if guide is None:
            return
        key = hashlib.sha256(repr(guide).encode(errors="surrogatepass")).digest()
        if key not in self._verdicts:
            verdict = await self._ask(guide)
            self._verdicts[key] = verdict
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)
        self._verdicts.move_to_end(key)
        refused = self._verdicts[key]
        if refused is not None:
            raise from_dict(refused)

    async def _ask(self, guide: TokenGuide) -> dict[str, Any] | None:
        if self._under_way >= MAX_CHECKS:
            raise Overloaded(f"{MAX_CHECKS} grammars are being compiled.")
        self._under_way += 1
        try:
            await self._questions.ask(lambda number: CheckGuide(number, guide))
        except InvalidRequest as error:
            if error.retry_after_s is not None:  # it took too long this time, which says nothing of the next
                raise
            return error.as_dict()
        finally:
            self._under_way -= 1
        return None
