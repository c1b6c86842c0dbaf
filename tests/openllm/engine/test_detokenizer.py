"""Stop strings: exact on text, whatever the token borders; nothing leaked, nothing held back longer than needed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openllm.engine.detokenizer import StopMatcher, TextStream
from openllm.tokenizer import byte_tokenizer

texts = st.text(alphabet="abc", max_size=30)
stop_lists = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4).map(tuple)


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The definition, slowly: read character by character; the first stop completed ends it, the longest of a tie."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@settings(max_examples=400, deadline=None)
@given(texts, stop_lists, st.lists(st.integers(0, 30), max_size=10))
@example("abcabd", ("abd",), [4])
@example("aab", ("ab", "aab"), [])
@example("abcdef", ("abcdef", "cd"), [])
def test_any_split_gives_the_same_text(text: str, stops: tuple[str, ...], cuts: list[int]) -> None:
    """The text before the first stop is exact however it was split, and no part of the stop is ever sent."""
    matcher, sent, stop = StopMatcher(stops), "", None
    expected, expected_stop = cut(text, stops)
    if not stops:
        return
    for piece in pieces(text, cuts):
        new, stop = matcher.push(piece)
        sent += new
        assert expected.startswith(sent)
        if stop is not None:
            break
    else:
        sent += matcher.flush()
    assert (sent, stop) == (expected, expected_stop)


@settings(max_examples=150, deadline=None)
@given(texts, stop_lists)
def test_holds_back_no_more_than_needed(text: str, stops: tuple[str, ...]) -> None:
    """What is held is the longest end of the text that a stop string begins with, and not a character more."""
    if not stops:
        return
    matcher, seen, sent = StopMatcher(stops), "", ""
    for char in text:
        seen += char
        new, stop = matcher.push(char)
        sent += new
        if stop is not None:
            return
        held = seen[len(sent) :]
        ends = [seen[start:] for start in range(len(seen))]
        could = [end for end in ends if any(s.startswith(end) and s != end for s in stops)]
        assert held == max(could, key=len, default="")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=4), max_size=3).map(tuple), st.data())
def test_stop_strings_across_bytes_of_characters(text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
    """With one byte per token, characters and stop strings split over tokens come out whole and exact."""
    if data.draw(st.booleans()) and text:
        start = data.draw(st.integers(0, len(text) - 1))
        stops = (*stops, text[start : start + 3])
    tokenizer = byte_tokenizer()
    stream, sent = TextStream(tokenizer.detokenizer(), stops), ""
    for byte in text.encode():
        sent += stream.push([byte])
        if stream.stop is not None:
            break
    else:
        sent += stream.flush()
    assert (sent, stream.stop) == cut(text, stops)


def test_long_stop_strings_stay_linear() -> None:
    """A kilobyte of near-matches costs steps in proportion to the text, not to its square."""
    matcher = StopMatcher(("a" * 1000 + "b",))
    sent = "".join(matcher.push("a")[0] for _ in range(20_000))
    assert len(sent) == 19_000
    assert matcher.push("b") == ("", "a" * 1000 + "b")


def test_min_tokens_shields_the_beginning() -> None:
    """Text of the first `min_tokens` tokens is not searched, later text is."""
    stream = TextStream(byte_tokenizer().detokenizer(), ("a",), min_tokens=2)
    assert [stream.push([b]) for b in b"aab"] == ["a", "a", "b"]
    assert stream.push([ord("a")]) == ""
    assert stream.stop == "a"


def test_incomplete_bytes_show_at_the_end_only() -> None:
    """Half a character at the end of a text becomes U+FFFD at the flush, as in one-shot decoding."""
    stream = TextStream(byte_tokenizer().detokenizer(), ())
    assert stream.push([0xE2]) == ""
    assert stream.flush() == "\ufffd"


def test_a_stop_may_complete_at_the_flush() -> None:
    """The replacement character of a half one can itself complete a stop string."""
    stream = TextStream(byte_tokenizer().detokenizer(), ("x\ufffd",))
    assert stream.push(list(b"ax\xe2")) == "a"
    assert stream.flush() == ""
    assert stream.stop == "x\ufffd"


@pytest.mark.parametrize("stops", [(), ("",)])
def test_no_stops_no_delay(stops: tuple[str, ...]) -> None:
    """Without stop strings text passes at once."""
    stream = TextStream(byte_tokenizer().detokenizer(), stops)
    assert not stream.searches
    assert stream.push([ord("a")]) == "a"
