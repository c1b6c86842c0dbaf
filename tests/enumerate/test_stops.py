"""Stop strings on the wire: whatever the characters and wherever tokens divide them, stream and whole are the same text.

Echo says one byte a token, so that every character of more than one byte is split over tokens. `OPENLLM_TEST_STOPS` says how
many cases; `hatch run full` takes ten thousand.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import orjson
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tests.enumerate.site import ask
from tests.openllm.engine.test_detokenizer import cut
from tests.openllm.server.serving import Served, events, serving

CASES = int(os.environ.get("OPENLLM_TEST_STOPS") or 400)
ROUTE = "/v1/completions"

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
ALPHABET = [
    "a",
    "b",
    "ab",
    "é",
    "ß",
    "€",
    "𝄞",
    "👩",
    "\u200d",
    "👧",
    FAMILY,
    "e\u0301",
    "\u202e",
    "\0",
    "\ufeff",
    "\ufffd",
    " ",
    "\n",
]

texts = st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=12).map("".join) | st.text(min_size=1, max_size=24)


@st.composite
def texts_and_stops(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text, and stop strings of which most are parts of it, or almost."""
    text = draw(texts)
    stops: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text) - 1))
        part = text[start : start + draw(st.integers(1, 6))]
        stops.append(draw(st.sampled_from([part, part + "x", part + part[:1]]) | texts))
    return text, [stop for stop in stops if len(stop.encode()) <= 256]


class Asked:
    """A server, and a loop to ask it in."""

    def __init__(self, runner: asyncio.Runner, served: Served) -> None:
        self._runner = runner
        self._app = served.composed.app
        self.times = 0

    def __call__(self, body: dict[str, object]) -> bytes:
        """The answer to a request."""
        self.times += 1
        answer = self._runner.run(ask(self._app, "POST", ROUTE, orjson.dumps(body)))
        assert answer.status == 200, answer.body
        return answer.body


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    """One server for all cases."""
    with asyncio.Runner() as runner:
        context = serving()
        served = runner.run(context.__aenter__())
        try:
            yield Asked(runner, served)
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def counted(asked: Asked, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Tell how many answers a test took: two for each of its texts."""
    yield
    record_property("answers", asked.times)


@pytest.mark.timeout(120 + CASES // 20)
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(texts_and_stops())
@example((FAMILY, ["👧"]))
@example((FAMILY, ["\u200d"]))
@example(("aab", ["ab", "aab"]))
@example(("aé", ["é"]))
@example(("€€€", ["€€€€", "€€"]))
@example(("a\ufffdb", ["\ufffd"]))
def test_stream_and_whole_are_one_text(asked: Asked, case: tuple[str, list[str]]):
    """The text before the first stop is exact, nothing of the stop is sent, no character is broken, and the pieces of the
    stream add up to the one-shot text."""
    text, stops = case
    assume(stops)
    body = {"model": "echo", "prompt": text, "stop": stops, "max_tokens": 500}
    expected, _ = cut(text, tuple(stops))
    whole = orjson.loads(asked(body))["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (expected, "stop")
    frames = events(asked(body | {"stream": True}).decode())
    assert frames.pop() == "[DONE]"
    pieces = [frame["choices"][0]["text"] for frame in frames]
    assert "".join(pieces) == expected
    assert frames[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
