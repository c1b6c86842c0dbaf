"""RequestStream and Sequence: several tokens a step, waiting readers, joined deltas."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.backends.base import BackendRequest, SequenceDelta, TokenLogprob, TokenSampling
from openllm.engine.stream import MERGE_ABOVE, RequestStream, Sequence, error_of
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import EngineError, EngineUnavailable, RequestAborted
from openllm_core.schema import Delta

from .conftest import request

TOKENIZER = byte_tokenizer()


def sequence_of(stream: RequestStream) -> Sequence:
    return Sequence(stream, 0, BackendRequest("r", [1], TokenSampling(max_tokens=9)), TOKENIZER)


class Listener:
    """Stands for the engine a request is in, and remembers what it was told."""

    def __init__(self) -> None:
        self.closed: list[RequestStream] = []

    def on_stream_closed(self, stream: RequestStream) -> None:
        self.closed.append(stream)

    def on_deadline(self, stream: RequestStream) -> None:
        raise AssertionError("no deadline runs here")

    def on_queue_timeout(self, stream: RequestStream) -> None:
        raise AssertionError("nothing waits in line here")


async def drained(stream: RequestStream) -> list[Delta]:
    stream.end()
    return [delta async for delta in stream]


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet="abé🙂", max_size=20),
    stop=st.sampled_from([(), ("b",), ("ab",), ("é", "🙂a")]),
    cuts=st.lists(st.integers(1, 6), max_size=30),
    reason=st.sampled_from(["length", "stop"]),
)
def test_tokens_per_step_change_nothing(text: str, stop: tuple[str, ...], cuts: list[int], reason: str) -> None:
    """Text, ids, end and logprobs are the same whether a step brings one token or several."""

    def run(sizes: list[int]) -> tuple[str, list[int], object, list[int]]:
        async def inner() -> tuple[str, list[int], object, list[int]]:
            stream = RequestStream(request("p", stop=stop, logprobs=0), [1], Listener())
            sequence = sequence_of(stream)
            ids = [*text.encode(), 257] if reason == "stop" else [*text.encode(), ord("z")]
            while ids:
                size = sizes.pop(0) if sizes else 1
                part, ids = ids[:size], ids[size:]
                logprobs = [TokenLogprob(token, -1.0) for token in part]
                ended = None if ids else reason
                delta = SequenceDelta("r", part, ended, 257 if ended == "stop" else None, None, logprobs)
                if sequence.take(delta):
                    break
            deltas = await drained(stream)
            found = [token for delta in deltas for token in delta.token_ids]
            logged = [entry.token_id for delta in deltas for entry in delta.logprobs or ()]
            assert stream.completion_tokens == len(found)
            assert [delta.finish_reason is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]
            end = (deltas[-1].finish_reason, deltas[-1].stop_reason)
            return "".join(delta.text for delta in deltas), found, end, logged

        return asyncio.run(inner())

    one = run([])
    assert run(list(cuts)) == one
    assert one[1] == one[3]


async def test_a_waiting_reader_is_woken() -> None:
    """A reader that waits gets the delta put later, the end, and nothing after it."""
    stream = RequestStream(request(), [1], Listener())
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.put(Delta(0, "a", [1]))
    assert (await reader).text == "a"
    reader = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    stream.end()
    assert await reader is None
    assert await anext(stream, None) is None


async def test_an_error_comes_after_what_was_before() -> None:
    """Deltas put before the failure are read first; then every read raises it."""
    stream = RequestStream(request(), [1], Listener())
    stream.put(Delta(0, "a", [1]))
    stream.end(EngineUnavailable("gone"))
    assert (await anext(stream)).text == "a"
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await anext(stream)


async def test_a_cancelled_read_loses_nothing() -> None:
    """Cancelling a waiting read leaves the stream usable."""
    stream = RequestStream(request(), [1], Listener())
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    stream.put(Delta(0, "a", [1]))
    assert (await anext(stream)).text == "a"


async def test_closing_tells_the_engine_once() -> None:
    """The engine hears of the first close of an unfinished stream, and of no other."""
    engine = Listener()
    stream = RequestStream(request(), [1], engine)
    await stream.aclose()
    await stream.aclose()
    assert engine.closed == [stream]
    done = RequestStream(request(), [1], engine)
    done.end()
    await done.aclose()
    assert engine.closed == [stream]


async def test_joined_deltas_keep_choices_apart() -> None:
    """Beyond the bound text is joined to the newest waiting delta of the same choice."""
    stream = RequestStream(request(n=2), [1], Listener())
    for number in range(MERGE_ABOVE * 3):
        stream.put(Delta(number % 2, str(number % 10), [number]))
    stream.put(Delta(0, "!", [999], "stop", None, "x"))
    deltas = await drained(stream)
    assert len(deltas) == MERGE_ABOVE
    assert [token for delta in deltas if delta.index == 1 for token in delta.token_ids] == list(
        range(1, MERGE_ABOVE * 3, 2)
    )
    last = [delta for delta in deltas if delta.index == 0][-1]
    assert (last.finish_reason, last.stop_reason, last.token_ids[-1]) == ("stop", "x", 999)


def test_errors_of_deltas() -> None:
    """A delta's own error, an unexpected abort, or neither, each become an error of ours."""
    given_error = error_of(SequenceDelta("r", [], "error", None, EngineUnavailable("m").as_dict()))
    assert isinstance(given_error, EngineUnavailable)
    assert isinstance(error_of(SequenceDelta("r", [], "abort")), RequestAborted)
    assert type(error_of(SequenceDelta("r", [], "error"))) is EngineError
