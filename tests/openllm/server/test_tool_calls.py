"""Tools, reasoning and answers of a form over HTTP, with a scripted model: one answer, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.openllm.server.serving import Served, chat_body, serving

from openllm.tools import TOOL_FORMATS

CHAT = "/v1/chat/completions"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": CITY}}
OTHER = {"type": "function", "function": {"name": "clock"}}
CALL = 'weather({"city": "Paris"})'
ASKED = [{"role": "user", "content": "Weather?"}]
NAMED = {"type": "function", "function": {"name": "clock"}}


async def whole(served: Served, **fields: Any) -> Any:
    """The choice of a one-shot answer."""
    answer = await served.post(CHAT, chat_body(**{"messages": ASKED, "max_tokens": 900} | fields))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


async def streamed(served: Served, **fields: Any) -> list[Any]:
    """The choices of all chunks of a streamed one."""
    body = chat_body(**{"messages": ASKED, "max_tokens": 900, "stream": True} | fields)
    async with served.http.stream("POST", CHAT, json=body) as answer:
        lines = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines[:-1]]


async def test_a_call_comes_in_the_shapes_of_openai() -> None:
    """Whole: no content, one call with an id. Streamed: id and name once, then pieces of the arguments, then the reason."""
    async with serving(call=CALL) as served:
        choice = await whole(served, tools=[TOOL])
        chunks = await streamed(served, tools=[TOOL])
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None and choice["finish_reason"] == "tool_calls"
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert call["function"]["name"] == "weather" and json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    deltas = [delta for chunk in chunks for delta in chunk["delta"].get("tool_calls", ())]
    assert deltas[0]["id"].startswith("call_") and deltas[0]["function"]["name"] == "weather"
    assert {delta["index"] for delta in deltas} == {0}
    assert not any("id" in delta or "name" in delta["function"] for delta in deltas[1:]) and len(deltas) > 2
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    assert chunks[-1]["delta"] == {} and chunks[-1]["finish_reason"] == "tool_calls"
    assert not any(chunk["delta"].get("content") for chunk in chunks)


async def test_the_result_of_a_call_is_answered_in_words() -> None:
    """The loop that every agent turns: call, result, answer."""
    async with serving(call=CALL, reply="Sunny.") as served:
        call = (await whole(served, tools=[TOOL]))["message"]
        turns = [*ASKED, call, {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "sun"}]
        choice = await whole(served, tools=[TOOL], messages=turns)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Sunny.", "stop")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": "required"}, ["weather"]),
        ({"tool_choice": NAMED}, ["clock"]),
        ({"tool_choice": "auto"}, []),
        ({"tool_choice": "none"}, []),
    ],
)
async def test_tool_choice_decides_whether_a_call_must_come(fields: dict[str, Any], names: list[str]) -> None:
    """Without a script of calls the model would make none."""
    async with serving(reply="ok") as served:
        choice = await whole(served, tools=[TOOL, OTHER], **fields)
    assert [call["function"]["name"] for call in choice["message"].get("tool_calls", ())] == names
    assert (choice["message"]["content"] is None) == bool(names)


async def test_what_there_is_not_is_absent() -> None:
    """A message without calls or reasoning has neither key, as OpenAI's has none; its content and refusal are there."""
    async with serving(reply="ok") as served:
        message = (await whole(served, tools=[TOOL]))["message"]
    assert message == {"role": "assistant", "content": "ok", "refusal": None}


@pytest.mark.parametrize("name", [name for name in TOOL_FORMATS if name != "gpt-oss"])
async def test_a_call_that_must_come_is_read_in_each_form(name: str) -> None:
    """The grammar writes as the family does, and the call that comes of it is the same."""
    async with serving(call=CALL, options={"tool_call_parser": name}) as served:
        choice = await whole(served, tools=[TOOL, OTHER], tool_choice="required")
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Paris"})
    assert choice["finish_reason"] == "tool_calls"


async def test_a_model_is_told_of_tools_its_template_does_not_know() -> None:
    """In the system's message, unless the request chooses none: the echo model says its prompt."""
    async with serving() as served:
        told = (await whole(served, tools=[TOOL], max_tokens=2000))["message"]["content"]
        untold = (await whole(served, tools=[TOOL], tool_choice="none"))["message"]["content"]
    assert "<tools>" in told and '"city"' in told and "Weather?" in told
    assert "tools" not in untold


async def test_a_cut_call_ends_with_length() -> None:
    """What came of the arguments is handed on; the reason is the truth."""
    async with serving(call=CALL) as served:
        choice = await whole(served, tools=[TOOL], max_tokens=60)
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "length" and '{"city": "Paris"}'.startswith(call["function"]["arguments"])


async def test_a_form_and_a_call_that_must_come_exclude_each_other() -> None:
    """400, and the field is named; a call that may come and a form go together."""
    async with serving(reply="ok") as served:
        form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}}
        refused = await served.post(CHAT, chat_body(tools=[TOOL], tool_choice="required", **form))
        choice = await whole(served, tools=[TOOL], **form)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "response_format.json_schema.schema"
    assert json.loads(choice["message"]["content"]) == {"city": "echo"}


async def test_reasoning_stands_apart() -> None:
    """In reasoning_content, whole and streamed; with `none` it stays in the text."""
    reply = "<think>\nhm, hm\n</think>\n\nYes."
    async with serving(reply=reply, options={"reasoning_parser": "qwen"}) as served:
        message = (await whole(served))["message"]
        chunks = await streamed(served, logprobs=True)
    assert (message["reasoning_content"], message["content"]) == ("hm, hm", "Yes.")
    assert "".join(chunk["delta"].get("reasoning_content") or "" for chunk in chunks) == "hm, hm"
    assert "".join(chunk["delta"].get("content") or "" for chunk in chunks) == "Yes."
    tokens = [entry["token"] for chunk in chunks for entry in (chunk["logprobs"] or {}).get("content", ())]
    assert "".join(tokens).startswith(reply)
    async with serving(reply=reply, options={"reasoning_parser": "none"}) as served:
        message = (await whole(served))["message"]
    assert "reasoning_content" not in message and message["content"] == reply
