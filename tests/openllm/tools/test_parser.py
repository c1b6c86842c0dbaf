"""Answers in each family's own words, cut anywhere: the same text, reasoning and calls come out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.tools import TOOL_FORMATS, AnswerParser, Arguments, Call, ChatForm, Event, Reasoning, Text, form_of
from openllm.tools.prompt import write_calls

F1 = [Call("f"), Arguments('{"a": 1}')]
G2 = [Call("g"), Arguments('{"b": "}\\"<"}')]

TYPES = {"n": "integer", "ok": "boolean", "s": "string", "o": "object", "u": ["string", "null"]}
TOOLS: dict[str, dict[str, Any] | None] = {
    "f": {"type": "object", "properties": {name: {"type": kind} for name, kind in TYPES.items()}},
    "g": None,
}


def form(tools: str, reasoning: str = "none") -> ChatForm:
    return form_of(tools=tools, reasoning=reasoning, family_tools=None, family_reasoning=None, template="{{ tools }}")


def read(form: ChatForm, pieces: list[str], *, tools: bool = True, opened: bool = False) -> list[Event]:
    """What comes of a text in pieces, neighbours of one kind joined."""
    parser = AnswerParser(form, TOOLS if tools else None, opened=opened)
    found = [event for piece in pieces for event in parser.push(piece)] + parser.close()
    joined: list[Event] = []
    for event in found:
        last = joined[-1] if joined else None
        if type(last) is type(event) and not isinstance(event, Call) and not isinstance(last, Call | None):
            joined[-1] = type(event)(last.text + event.text)
        else:
            joined.append(event)
    return joined


CASES: list[tuple[str, str, str, list[Event]]] = [
    ("hermes", "none", "plain < text \n", [Text("plain < text \n")]),
    ("hermes", "none", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', F1),
    (
        "hermes",
        "none",
        'Hi.\n<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {"b": "}\\"<"}, "x": [1, true]}\n</tool_call>\n',
        [Text("Hi."), *F1, *G2],
    ),
    ("hermes", "none", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', F1),
    ("hermes", "none", '<tool_call>{"name": "f"}</tool_call>', [Call("f"), Arguments("{}")]),
    ("hermes", "none", '<tool_call>{"name": "f", "arguments": {"a": 1', [Call("f"), Arguments('{"a": 1')]),
    ("hermes", "none", '<tool_call>{"name": "f', [Text('<tool_call>{"name": "f')]),
    ("hermes", "none", "a <tool <tool_call>no</tool_call> b", [Text("a <tool<tool_call>no</tool_call> b")]),
    ("hermes", "none", '<tool_call>{"x": 1}</tool_call>', [Text('<tool_call>{"x": 1}</tool_call>')]),
    (
        "qwen",
        "qwen",
        '<think>\nhm </ <b\n</think>\n\nHi <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        [Reasoning("hm </ <b"), Text("Hi"), *F1],
    ),
    ("qwen", "qwen", "  no thought <think>", [Text("  no thought <think>")]),
    ("qwen", "qwen", "<think>without an end ", [Reasoning("without an end ")]),
    (
        "qwen3-coder",
        "qwen",
        "<think>x</think>Hi <\n<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\n"
        '<tool_call>\n<function=g>\n<parameter=b>\n}"<\n</parameter>\n</function>\n</tool_call>',
        [Reasoning("x"), Text("Hi <"), *F1, *G2],
    ),
    (
        "qwen3-coder",
        "none",
        "<tool_call><function=f><parameter=n>7</parameter><parameter=ok>True</parameter><parameter=s>\n 12\n\n"
        '</parameter><parameter=o>{"x": [1]}</parameter><parameter=u>null</parameter></function></tool_call>',
        [Call("f"), Arguments('{"n": 7, "ok": true, "s": " 12\\n", "o": {"x": [1]}, "u": null}')],
    ),
    (
        "qwen3-coder",
        "none",
        "<tool_call><function=f><parameter=n>many</parameter><parameter=ok>NaN</parameter><parameter=u>ü</parameter>",
        [Call("f"), Arguments('{"n": "many", "ok": "NaN", "u": "ü"')],
    ),
    ("qwen3-coder", "none", "<tool_call><function=f></function></tool_call>", [Call("f"), Arguments("{}")]),
    (
        "qwen3-coder",
        "none",
        "<tool_call><function=f><parameter=s>a</parameter><parameter=n>1",
        [Call("f"), Arguments('{"s": "a"')],
    ),
    (
        "qwen3-coder",
        "none",
        "So:\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\nor <function=x> then",
        [Text("So:"), *F1, Text("or<function=x> then")],
    ),
    ("qwen3-coder", "none", "<tool_call><function=f><parameter=a>1</parameter></tool_call>.", [*F1, Text(".")]),
    ("qwen3-coder", "none", "<tool_call>\n<function=f", [Text("<tool_call>\n<function=f")]),
    ("qwen3-coder", "none", "a <tool_call>no</tool_call>", [Text("a<tool_call>no</tool_call>")]),
    (
        "llama3",
        "none",
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {"b": "}\\"<"}}',
        [*F1, *G2],
    ),
    ("llama3", "none", '\n<|python_tag|>{"name": "f", "parameters": {"a": 1}}', F1),
    (
        "llama3",
        "none",
        '{"name": "Bob", "parameters": {"a": 1}} is',
        [Text('{"name": "Bob", "parameters": {"a": 1}} is')],
    ),
    ("llama3", "none", '{"name": "f", "age": 3}', [Text('{"name": "f", "age": 3}')]),
    ("llama3", "none", " <b> {", [Text(" <b> {")]),
    (
        "mistral",
        "none",
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"arguments": {"b": "}\\"<"}, "name": "g"}]',
        [*F1, *G2],
    ),
    ("mistral", "none", 'ok [TOOL_CALLS]f[CALL_ID]x1[ARGS]{"a": 1}[TOOL_CALLS]g{"b": "}\\"<"}', [Text("ok"), *F1, *G2]),
    ("mistral", "none", "a [TOOL bench]", [Text("a [TOOL bench]")]),
    (
        "deepseek",
        "deepseek",
        "<think>x</think>y<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"a": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>g<｜tool▁sep｜>{"b": "}\\"<"}<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>",
        [Reasoning("x"), Text("y"), *F1, *G2],
    ),
    (
        "gpt-oss",
        "gpt-oss",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{"a": 1}',
        [Reasoning("hm"), *F1],
    ),
    (
        "gpt-oss",
        "none",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi < there",
        [Reasoning("hm"), Text("Hi < there")],
    ),
    ("gpt-oss", "none", '{"a": 1}', [Text('{"a": 1}')]),
]


@pytest.mark.parametrize(("tools", "reasoning", "text", "found"), CASES)
def test_each_form_is_read(tools: str, reasoning: str, text: str, found: list[Event]) -> None:
    """As a whole, character by character, and cut at each place and each pair of places (every fifth of them)."""
    known = form(tools, reasoning)
    assert read(known, [text]) == found
    assert read(known, list(text)) == found
    for at in range(len(text)):
        assert read(known, [text[:at], text[at:]]) == found
    for a, b in itertools.islice(itertools.combinations(range(len(text)), 2), 0, None, 5):
        assert read(known, [text[:a], text[a:b], text[b:]]) == found


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_what_is_written_is_read_back(name: str) -> None:
    """The texts around a call, which grammar and prompt are made of, are those that the reader looks for."""
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": {"b": '}"<'}}}]
    if TOOL_FORMATS[name].between is None:
        calls = calls[:1]
    assert read(form(name), [write_calls(TOOL_FORMATS[name], calls)]) == [*F1, *G2][: 2 * len(calls)]


PARTS = (
    "<tool_call>", "</tool_call>", "{", "}", '"name"', ": ", '"f"', ", ", '"arguments"', "<think>", "</think>",
    "[TOOL_CALLS]", "[", "]", "<|channel|>", "<|message|>", "<|start|>", "final", "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "\n", " ", "x", "\\", ";", "[ARGS]", "to=functions.f", "<function=", "<parameter=", ">",
    "</parameter>", "</function>",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(TOOL_FORMATS)),
    st.lists(
        st.sampled_from(PARTS),
        max_size=24,
    ),
)
def test_whatever_a_model_writes_is_read_alike_in_any_pieces(name: str, parts: list[str]) -> None:
    """Broken marks and half objects too: nothing raises, nothing waits for ever, and cuts change nothing."""
    text = "".join(parts)
    known = form(name, "qwen")
    whole = read(known, [text])
    assert read(known, list(text)) == whole
    assert read(known, parts) == whole


def test_text_is_handed_on_as_it_comes() -> None:
    """Only what may become a mark waits, and arguments do not wait for their end."""
    parser = AnswerParser(form("hermes"), {"f": None})
    assert parser.push("Hello <") == [Text("Hello")]
    assert parser.push("b> and") == [Text(" <b> and")]
    assert parser.push('<tool_call>{"name": "f", "arguments": {"long') == [Call("f"), Arguments('{"long')]
    assert parser.push("er") == [Arguments("er")]


def test_without_tools_what_looks_like_a_call_is_text() -> None:
    """The model was told of none."""
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert read(form("hermes"), [text], tools=False) == [Text(text)]


def test_a_prompt_that_opens_the_reasoning() -> None:
    """The answer begins within it."""
    assert read(form("qwen", "qwen"), ["so", " it is\n</think>\n\nyes"], opened=True) == [
        Reasoning("so it is"),
        Text("yes"),
    ]


@pytest.mark.parametrize(
    ("given", "tools", "reads", "knows"),
    [
        ({}, "hermes", False, True),
        ({"family_tools": "mistral", "family_reasoning": "qwen"}, "mistral", True, True),
        ({"family_tools": "mistral", "template": "{{ messages }}"}, "hermes", False, False),
        ({"tools": "llama3", "family_tools": "mistral"}, "llama3", False, True),
        ({"family_reasoning": "qwen", "reasoning": "none"}, "hermes", False, True),
        ({"family_tools": "gpt-oss", "family_reasoning": "gpt-oss", "template": None}, "gpt-oss", True, False),
        ({"reasoning": "gpt-oss"}, "gpt-oss", True, True),
        ({"family_tools": "qwen", "template": "{{ tools }}<function=f><parameter=p>"}, "qwen3-coder", False, True),
    ],
)
def test_settings_go_before_the_family(given: dict[str, str | None], tools: str, reads: bool, knows: bool) -> None:
    """A template that knows no tools is told in hermes' form, unless the operator names another."""
    usual: dict[str, str | None] = {
        "tools": "auto",
        "reasoning": "auto",
        "family_tools": None,
        "family_reasoning": None,
    }
    made = form_of(**{**usual, "template": "{% if tools %}", **given})  # pyright: ignore[reportArgumentType]
    assert (made.tools.name, made.reads_all, made.knows_tools) == (tools, reads, knows)


def test_arguments_are_json_however_they_were_written() -> None:
    """Written as a string, before the name, or not at all."""
    for text in ('{"arguments": "{\\"a\\": 1}", "name": "f"}', '{"name": "f", "arguments": {"a": 1}}'):
        found = read(form("hermes"), [f"<tool_call>{text}</tool_call>"])
        assert isinstance(found[1], Arguments) and json.loads(found[1].text) == {"a": 1}


def test_brackets_without_end_are_text() -> None:
    """A model that repeats an opening bracket for ever breaks nothing."""
    for text in ('<tool_call>{"x": ' + "[" * 100_000, "<tool_call><function=f><parameter=a>" + "[" * 100_000):
        for name in ("hermes", "qwen3-coder"):
            assert read(form(name), [text, "</parameter></function></tool_call>"])
