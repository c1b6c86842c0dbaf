"""Wire messages: what their convenience properties say, and that each goes to JSON and back."""

from __future__ import annotations

from openllm_core.schema import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    ChunkDelta,
    Usage,
)
from openllm_core.serde import dumps, loads, structure

USAGE = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)


def completion(*contents: str | None) -> ChatCompletion:
    choices = [
        ChatChoice(index=i, message=AssistantMessage(content=text), finish_reason="stop")
        for i, text in enumerate(contents)
    ]
    return ChatCompletion(id="i", created=1, model="m", choices=choices, usage=USAGE)


def test_the_text_of_a_chat_answer_is_that_of_its_first_choice() -> None:
    """Empty where there is no choice, or no text."""
    assert completion("a", "b").text == "a"
    assert completion(None).text == ""
    assert completion().text == ""


def test_the_text_of_a_chunk_is_what_is_new() -> None:
    """Empty in the usage chunk and where a delta has no content."""

    def chunk(*deltas: ChunkDelta) -> ChatCompletionChunk:
        choices = [ChunkChoice(index=i, delta=delta) for i, delta in enumerate(deltas)]
        return ChatCompletionChunk(id="i", created=1, model="m", choices=choices)

    assert chunk(ChunkDelta(content="a")).text == "a"
    assert chunk(ChunkDelta(role="assistant")).text == ""
    assert chunk().text == ""


def test_answers_go_to_json_and_back() -> None:
    """The client reads exactly what the server wrote."""
    sent = completion("a")
    assert structure(loads(dumps(sent)), ChatCompletion) == sent
