"""Messages become the requests of HTTP: what contradicts itself is refused, and errors name fields as the caller sent them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openllm.rpc import messages
from openllm_core.errors import InvalidRequest
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb


def chat(**sampling: object) -> pb.ChatRequest:
    """A chat with these sampling fields."""
    return pb.ChatRequest(messages=[pb.ChatMessage(role="user", content="hi")], sampling=pb.SamplingParams(**sampling))


def test_a_chat_may_leave_sampling_out():
    """A message without `sampling` asks for the server's defaults."""
    asked = pb.ChatRequest(messages=[pb.ChatMessage(role="user", content="hi")])
    assert messages.chat_request(asked, "echo", "echo").max_tokens is None


def test_two_names_of_one_field_must_agree():
    """`max_new_tokens` is `max_tokens`: the same value twice is one, two values are refused, in whichever order they stand."""
    assert messages.chat_request(chat(max_tokens=4, max_new_tokens=4), "echo", "echo").max_tokens == 4
    for names in (("max_tokens", "max_new_tokens"), ("min_tokens", "min_new_tokens"), ("n", "num_return_sequences")):
        asked = chat(**dict(zip(names, (4, 3), strict=True)))
        with pytest.raises(InvalidRequest, match="mean the same and differ") as refused:
            messages.chat_request(asked, "echo", "echo")
        assert messages.as_sent_to_chat(asked)(refused.value.param or "") in (f"sampling.{name}" for name in names)


def test_what_a_chat_does_not_use_must_be_sound_all_the_same():
    """A field of which a chat takes any value takes any that is one: padding is no negative token."""
    messages.chat_request(chat(pad_token_id=0), "echo", "echo")
    with pytest.raises(InvalidRequest, match="pad_token_id must be >= 0"):
        messages.chat_request(chat(pad_token_id=-1), "echo", "echo")


@pytest.mark.parametrize(
    ("sent", "path", "named"),
    [
        (messages.as_sent_to_chat(chat(max_tokens=0)), "max_tokens", "sampling.max_tokens"),
        (messages.as_sent_to_chat(chat(max_new_tokens=0)), "max_tokens", "sampling.max_new_tokens"),
        (messages.as_sent_to_chat(chat(stop=["a"] * 5)), "stop[4]", "sampling.stop[4]"),
        (messages.as_sent_to_chat(chat(logprobs=99)), "top_logprobs", "sampling.logprobs"),
        (messages.as_sent_to_chat(chat(n=2)), "messages[0].role", "messages[0].role"),
        (messages.as_sent_to_chat(chat()), "model", "model"),
        (messages.as_sent_to_embed, "input[3]", "texts[3]"),
        (messages.as_sent, "llm_config.top_k", "sampling.top_k"),
        (messages.as_sent, "llm_config.use_llama2_prompt", "family_fields.use_llama2_prompt"),
        (messages.as_sent, "prompt", "prompt"),
    ],
)
def test_paths_are_those_of_the_message(sent: Callable[[str], str], path: str, named: str):
    """What HTTP calls a field is translated to where it stands in the message."""
    assert sent(path) == named


def test_a_message_names_the_field_once_and_whole():
    """Only the field's own name is replaced in an error's text, not letters that look like it."""
    with pytest.raises(InvalidRequest) as refused, messages.named_as_sent(messages.as_sent_to_chat(chat(n=99))):
        raise InvalidRequest("n must be <= 16, not ninety-nine.", param="n")
    assert refused.value.message == "sampling.n must be <= 16, not ninety-nine."
    assert refused.value.param == "sampling.n"
