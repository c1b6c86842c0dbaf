"""One line of the log per request, HTTP and gRPC alike: route, status, how long, how many tokens, whose key, which id.

An observer that `openllm.compose` hands to both servers. Prompts and answers are written only where the operator typed
--log-prompts; keys never.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from .observation import Observation

ASKED_BY_MACHINES = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Probes and scrapes: they come every few seconds, and are told with --debug."""
_log = logging.getLogger("openllm.server")
_prompts = logging.getLogger("openllm.prompts")


class AccessLog:
    """Writes a line when a request is over; 499 and CANCELLED are clients that left.

    Args:
        prompts: whether prompts and answers are written too.
    """

    def __init__(self, *, prompts: bool = False) -> None:
        self._prompts = prompts

    def begin(self, seen: Observation, headers: Mapping[str, str]) -> None:
        """Have its texts kept, where they are to be written."""
        if self._prompts:
            seen.transcripts = []

    def end(self, seen: Observation) -> None:
        """Write its line."""
        level = logging.DEBUG if seen.route in ASKED_BY_MACHINES else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(level, "%s", sentence(seen), extra={"fields": partial(facts, seen)})
        for transcript in seen.transcripts or ():
            fields = {"request_id": seen.request_id, "prompt": transcript.prompt, "answers": transcript.answers()}
            _prompts.info("prompt %r, answers %r", transcript.prompt, fields["answers"], extra={"fields": fields})


def sentence(seen: Observation) -> str:
    """For people: what was asked, how it ended, how long it took."""
    details = [f"after {seen.duration_s * 1000:.1f} ms"]
    if seen.streams or seen.embedded_tokens:
        details.append(f"{seen.prompt_tokens} + {seen.completion_tokens} tokens")
    if seen.first_token_s is not None:
        details.append(f"the first after {seen.first_token_s * 1000:.1f} ms")
    details += [*seen.finish_reasons[:1], *filter(None, [seen.error])]
    if seen.key:
        details.append(f"key {seen.key}")
    said = f"{seen.method} {seen.route}".strip()
    return f"{said}: {seen.status} {', '.join(details)} ({seen.request_id})"


def facts(seen: Observation) -> dict[str, Any]:
    """For programs: all that is known, times in seconds; what is not known is left out."""
    known = {
        "request_id": seen.request_id,
        "protocol": seen.protocol,
        "method": seen.method,
        "route": seen.route,
        "status": seen.status,
        "error": seen.error,
        "model": seen.model,
        "adapter": seen.adapter,
        "key": seen.key,
        "stream": seen.stream or None,
        "duration_s": round(seen.duration_s, 6),
        "queue_s": _rounded(seen.queue_s),
        "first_token_s": _rounded(seen.first_token_s),
        "prompt_tokens": seen.prompt_tokens,
        "completion_tokens": seen.completion_tokens,
        "finish_reasons": seen.finish_reasons,
    }
    return {name: value for name, value in known.items() if value not in (None, "", [], 0) or name == "status"}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
