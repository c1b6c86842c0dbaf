"""When a call may be sent again, and after how long. Pure: both clients ask, and do the waiting themselves.

A call that makes the model work is sent again only when it certainly was not taken: no connection came about, or the
server refused it. One that only reads may also be sent again after a broken connection.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from ._wire import Call, Outcome, Reply

MAX_RETRY_AFTER_S = 60.0
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 8.0

REFUSALS = frozenset({429, 503})
TRANSIENT = frozenset({408, 429, 502, 503, 504})
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
_BROKEN = (*_NOTHING_SENT, httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds asked for by `Retry-After` (a number or a date), uncapped; None when absent or unreadable."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


def wait_s(call: Call[Any], outcome: Outcome, *, attempt: int, max_retries: int, left_s: float) -> float | None:
    """Seconds to wait before sending `call` again, or None to give up.

    Args:
        outcome: the refusal, or the transport's error.
        attempt: 0 after the first try.
        left_s: seconds left for the whole call; a longer wait is not begun.
    """
    if attempt >= max_retries or not _may_retry(call, outcome):
        return None
    asked = None
    if isinstance(outcome, Reply):
        if outcome.headers.get("x-should-retry", "").strip().lower() == "false":
            return None
        asked = retry_after_s(outcome.headers)
    return pause_s(asked, attempt=attempt, left_s=left_s)


def pause_s(asked_s: float | None, *, attempt: int, left_s: float) -> float | None:
    """Seconds to wait before another try, or None when there is no time for it.

    Args:
        asked_s: what the server asked for.
    """
    if asked_s is None:
        wait = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**attempt) * random.uniform(0.5, 1.0)
    else:
        # Up to a tenth more, so that callers who were refused together do not come back together.
        wait = min(MAX_RETRY_AFTER_S, asked_s * random.uniform(1.0, 1.1))
    return wait if wait < left_s else None


def _may_retry(call: Call[Any], outcome: Outcome) -> bool:
    if isinstance(outcome, Reply):
        return outcome.status in (TRANSIENT if call.repeatable else REFUSALS)
    return isinstance(outcome, _BROKEN if call.repeatable else _NOTHING_SENT)
