"""When a call is sent again, and after how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from openllm_client._retry import BACKOFF_MAX_S, retry_after_s, wait_s
from openllm_client._wire import Call, Reply

READ = Call(method="GET", path="/x", read=bytes, repeatable=True)
WORK = Call(method="POST", path="/x", read=bytes)


def waits(call, outcome, attempt=0, max_retries=2, left_s=1000.0):
    return wait_s(call, outcome, attempt=attempt, max_retries=max_retries, left_s=left_s)


def reply(status, **headers):
    return Reply(status, httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), b"")


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_reading_is_repeated_on_passing_trouble(status):
    """A call that only reads is sent again on every transient status."""
    assert waits(READ, reply(status)) is not None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 500, 501, 301])
def test_lasting_refusals_are_not_repeated(status):
    """What would be refused again is not sent again."""
    assert waits(READ, reply(status)) is None
    assert waits(WORK, reply(status)) is None


@pytest.mark.parametrize(("status", "again"), [(429, True), (503, True), (408, False), (502, False), (504, False)])
def test_work_is_repeated_only_when_it_was_refused(status, again):
    """A generation may have run behind a bad gateway or a time-out: only plain refusals are sent again."""
    assert (waits(WORK, reply(status)) is not None) is again


@pytest.mark.parametrize(
    ("error", "reading", "work"),
    [
        (httpx.ConnectError("x"), True, True),
        (httpx.ConnectTimeout("x"), True, True),
        (httpx.ReadError("x"), True, False),
        (httpx.WriteError("x"), True, False),
        (httpx.RemoteProtocolError("x"), True, False),
        (httpx.ReadTimeout("x"), False, False),
        (httpx.PoolTimeout("x"), False, False),
        (httpx.LocalProtocolError("x"), False, False),
        (httpx.DecodingError("x"), False, False),
    ],
)
def test_broken_connections(error, reading, work):
    """Work is sent again only when nothing had been sent."""
    assert (waits(READ, error) is not None) is reading
    assert (waits(WORK, error) is not None) is work


def test_server_may_forbid_it():
    """`x-should-retry: false` ends it."""
    assert waits(READ, reply(503, x_should_retry="false", retry_after="1")) is None
    assert waits(READ, reply(503, x_should_retry="true", retry_after="1")) is not None


def test_attempts_are_counted():
    """After max_retries more tries the answer stands."""
    assert waits(READ, reply(503), attempt=1) is not None
    assert waits(READ, reply(503), attempt=2) is None
    assert waits(READ, reply(503), max_retries=0) is None


def test_retry_after_is_honoured_and_capped():
    """The wait is what the server asked for, up to a tenth more and at most a minute."""
    for _ in range(50):
        assert 7 <= waits(READ, reply(503, retry_after="7")) <= 7.7
        assert waits(READ, reply(503, retry_after="3600")) == 60


def test_no_wait_beyond_the_time_left():
    """A wait that would end after the call's time-out is not begun."""
    assert waits(READ, reply(503, retry_after="7"), left_s=5) is None


def test_backoff_grows_with_jitter():
    """Without Retry-After the wait doubles, is jittered and bounded."""
    first = [waits(READ, reply(503)) for _ in range(50)]
    assert 0.25 <= min(first) < max(first) <= 0.5
    second = [waits(READ, reply(503), attempt=1) for _ in range(50)]
    assert min(second) >= 0.5 and max(second) <= 1.0
    assert max(waits(READ, reply(503), attempt=30, max_retries=99) for _ in range(20)) <= BACKOFF_MAX_S


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("", None), ("soon", None), ("nan", None)]
)
def test_retry_after_in_seconds(text, seconds):
    """Numbers are read; anything else is as if absent."""
    assert retry_after_s(httpx.Headers({"retry-after": text})) == seconds


def test_retry_after_as_a_date():
    """A date becomes the seconds until it; one in the past is now."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < retry_after_s(httpx.Headers({"retry-after": soon})) <= 30
    assert retry_after_s(httpx.Headers({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0
