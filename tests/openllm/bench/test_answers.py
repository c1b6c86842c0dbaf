"""What a streamed answer says: times, tokens, and why it does not count."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.openllm.bench.fake import ending, event, piece

from openllm.bench.answers import AnswerFailed, error_text, events, read_stream
from openllm.bench.exchange import Reply


def reply(*parts: tuple[float, bytes], status: int = 200) -> Reply:
    return Reply(status, list(parts), parts[-1][0] if parts else 0.0)


def test_times_are_those_at_which_text_came():
    """The role alone is no token; the first text, the mean after it, the waits and the end are told apart."""
    role = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    sample = read_stream(
        reply(
            (10.1, role),
            (10.5, event(piece("a"))),
            (10.6, event(piece("b"))),
            (10.9, event(piece("c"))),
            (11.0, b"".join(ending(3))),
        ),
        due=10.0,
    )
    assert sample.first_token_s == pytest.approx(0.5)
    assert sample.inter_token_s == pytest.approx(0.2)
    assert sample.gaps_s == pytest.approx([0.1, 0.3])
    assert sample.total_s == pytest.approx(1.0)
    assert (sample.tokens, sample.prompt_tokens, sample.finish_reason) == (3, 7, "length")


def test_pieces_that_share_an_arrival_are_no_wait():
    """Two pieces in one packet came at once: one arrival, no gap of zero."""
    sample = read_stream(
        reply((1.0, event(piece("a")) + event(piece("b"))), (2.0, event(piece("c")) + b"".join(ending(3)))), 0.0
    )
    assert sample.gaps_s == pytest.approx([1.0])
    assert sample.inter_token_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("chunks", "tail", "tokens", "by"),
    [
        ([piece("abc", token_ids=[1, 2, 3])], ending(5), 5, "usage"),
        ([piece("abc", token_ids=[1, 2, 3]), piece("d", token_ids=[4])], ending(None), 4, "token_ids"),
        ([piece("abc"), piece("d")], ending(None), 2, "pieces"),
    ],
)
def test_tokens_are_counted_by_the_best_source(chunks: list[Any], tail: list[bytes], tokens: int, by: str):
    """Usage goes before token ids, those before pieces: a piece may hold several tokens."""
    sample = read_stream(reply((1.0, b"".join([*map(event, chunks), *tail]))), 0.0)
    assert (sample.tokens, sample.counted_by) == (tokens, by)


def test_completions_and_reasoning_carry_text_too():
    """`text` of the completions route and `reasoning_content` are text like any other."""
    for choice in ({"text": "x"}, {"delta": {"reasoning_content": "x"}}):
        stream = event({"choices": [{"index": 0, **choice}]})
        assert read_stream(reply((0.4, stream), (0.5, b"".join(ending(1)))), 0.0).first_token_s == pytest.approx(0.4)


@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\r\n"])
def test_events_do_not_depend_on_how_bytes_were_split(ends: bytes):
    """Cut anywhere, comments between, either line end: the same data."""
    stream = b": ping" + ends + b'data: {"a":1}' + ends + b"event: x" + ends[: len(ends) // 2] + b"data: two" + ends
    expected = [b'{"a":1}', b"two"]
    for cut in range(1, len(stream)):
        assert [data for _, data in events([(0.0, stream[:cut]), (1.0, stream[cut:])])] == expected


@pytest.mark.parametrize(
    ("parts", "status", "kind"),
    [
        ([(1.0, b'{"error": {"message": "busy"}}')], 503, "http_503"),
        ([(1.0, event({"error": {"message": "died"}}))], 200, "error_event"),
        ([(1.0, event(piece("a")))], 200, "incomplete"),
        ([(1.0, b"".join(ending(0)))], 200, "no_text"),
        ([(1.0, event(b"<html>"))], 200, "not_json"),
    ],
)
def test_what_is_no_answer_is_named(parts: list[tuple[float, bytes]], status: int, kind: str):
    """Refusals, errors amid a stream, broken ends and silence each have a word of their own."""
    with pytest.raises(AnswerFailed) as caught:
        read_stream(reply(*parts, status=status), 0.0)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "busy"}}, "busy"),
        ({"error": "busy"}, "busy"),
        ({"message": "busy"}, "busy"),
        ("busy", '"busy"'),
    ],
)
def test_the_message_of_an_error_is_found(body: Any, text: str):
    """In OpenAI's shape, in plainer ones, and where there is none."""
    assert error_text(json.dumps(body).encode()) == text
