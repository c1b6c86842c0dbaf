"""How each form of tool calls, and of reasoning, is read: one generator each, over text that may come in any pieces.

`formats` names them by family. A call that breaks off hands on what came of it; text that only looks like a call is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from .events import Arguments, Call, Reasoning, Text
from .source import Reader, Source

THINK, THINK_END = "<think>", "</think>"
ARGUMENTS = ("arguments", "parameters")
PYTHONS = {"True": "true", "False": "false", "None": "null"}
"""Models that were trained on Python's values write these for JSON's."""


# -- reasoning --------------------------------------------------------------------------------------------------------


def think_tags(source: Source, *, opened: bool) -> Reader[None]:
    """`<think>…</think>` before the answer.

    Args:
        opened: the prompt ends with the opening tag.
    """
    if not opened:
        source.keep()
        yield from source.peek()
        opened = yield from source.starts(THINK)
        before = source.forget()
        if not opened:
            source.text = before + source.text
            return
    yield from source.peek()
    if (yield from source.pass_up_to((THINK_END,), Reasoning)):
        yield from source.peek()


# -- calls ------------------------------------------------------------------------------------------------------------


def tagged(source: Source) -> Reader[None]:
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`, as many as there are, and text around them."""
    while mark := (yield from source.pass_up_to(("<tool_call>",), Text)):
        source.keep(mark)
        if (yield from source.peek()) != "{":
            source.found.append(Text(source.forget()))
        elif (yield from _object(source)):
            yield from source.up_to("</tool_call>")
            yield from source.peek()


def spelled_out(source: Source) -> Reader[None]:
    """`<tool_call><function=NAME><parameter=KEY>VALUE</parameter>…</function></tool_call>`, and text around such.

    A value is text; where the function's schema takes no string it is JSON. Models leave the outer tags out now and then: what
    calls a tool that there is counts without them.
    """
    while mark := (yield from source.pass_up_to(("<tool_call>", "<function="), Text)):
        source.keep(mark)
        name, wrapped = "", mark == "<tool_call>"
        if wrapped:
            yield from source.peek()
        if not wrapped or (yield from source.starts("<function=")):
            name = (yield from source.before(">")).strip()
        known = bool(name) and (wrapped or name in source.tools)
        if not known or not (yield from source.starts(">")):
            source.found.append(Text(source.forget()))
            continue
        source.forget()
        source.found.append(Call(name))
        if (yield from _parameters(source, source.tools.get(name) or {})):
            for end in ("</function>", "</tool_call>"):
                yield from source.starts(end)
                yield from source.peek()


def bare(source: Source) -> Reader[None]:
    """`{"name": …, "parameters": …}` and nothing else, several with `;` between; anything else is text."""
    source.keep()
    if (yield from source.peek()) == "<" and (yield from source.starts("<|python_tag|>")):
        source.keep()
        yield from source.peek()
    source.text = source.forget() + source.text
    while source.text.lstrip()[:1] == "{":
        source.keep()
        if not (yield from _object(source, known_only=True)):
            break
        source.keep()
        if (yield from source.peek()) == ";":
            source.take(1)
            yield from source.peek()
        source.text = source.forget().lstrip("; \t\r\n") + source.text
    yield from source.pass_rest(Text)


def listed(source: Source) -> Reader[None]:
    """`[TOOL_CALLS]` and a list of objects; newer models write each as `[TOOL_CALLS]name[ARGS]{…}`."""
    while (yield from source.pass_up_to(("[TOOL_CALLS]",), Text)):
        if (yield from source.peek()) == "[":
            source.take(1)
            while (yield from source.peek()) == "{":
                source.keep()
                if not (yield from _object(source)):
                    yield from source.pass_rest(Text)
                    return
                if (yield from source.peek()) == ",":
                    source.take(1)
            if source.text.startswith("]"):
                source.take(1)
        else:
            yield from _named(source, "{")
        yield from source.peek()


def deepseek(source: Source) -> Reader[None]:
    """DeepSeek's marks: `function`, the name and a fenced block (V3, R1), or the name and bare JSON (V3.1)."""
    if not (yield from source.pass_up_to(("<｜tool▁calls▁begin｜>",), Text)):
        return
    while (yield from source.peek()) and (yield from source.starts("<｜tool▁call▁begin｜>")):
        head = (yield from source.up_to("<｜tool▁sep｜>")).strip()
        if head == "function":
            head = (yield from source.up_to("\n")).strip()
            yield from source.before("{")
        if head:
            yield from _arguments(source, head)
        yield from source.up_to("<｜tool▁call▁end｜>")
    yield from source.starts("<｜tool▁calls▁end｜>")


def channels(source: Source) -> Reader[None]:
    """gpt-oss: `<|channel|>analysis|commentary|final … <|message|>…`, calls by `to=functions.NAME`."""
    ends = ("<|end|>", "<|start|>", "<|call|>", "<|return|>")
    if (yield from source.peek()) != "<":
        yield from source.pass_rest(Text)
        return
    while (yield from source.peek()):
        header = yield from source.up_to("<|message|>")
        words = header.replace("<|", " <|").replace("|>", "|> ").split()
        called = next((w.removeprefix("to=functions.") for w in words if w.startswith("to=functions.")), None)
        if called:
            yield from _arguments(source, called)
            yield from source.up_to("<|start|>")
        else:
            make = Reasoning if "analysis" in words else Text
            mark = yield from source.pass_up_to(ends, make)
            if mark is not None and mark != "<|start|>":
                yield from source.up_to("<|start|>")


# -- parts ------------------------------------------------------------------------------------------------------------


def _named(source: Source, opening: str) -> Reader[None]:
    """A name, perhaps an id, and the arguments behind it."""
    name = yield from source.before(opening)
    name = name.partition("[ARGS]")[0].partition("[CALL_ID]")[0].strip()
    if name:
        yield from _arguments(source, name)


def _arguments(source: Source, name: str) -> Reader[bool]:
    """Arguments of a call whose name is known; `{}` where there are none."""
    source.found.append(Call(name))
    if (yield from source.peek()) != "{":
        source.found.append(Arguments("{}"))
        return True
    return (yield from source.pass_json(lambda text: source.found.append(Arguments(text))))


def _parameters(source: Source, schema: Mapping[str, Any]) -> Reader[bool]:
    """Arguments that are written one by one, handed on as JSON; each once it is whole, since its type may be any.

    Args:
        schema: of the arguments.

    Returns:
        Whether they came to their end.
    """
    properties: Any = schema.get("properties")
    known = cast("dict[str, Any]", properties) if isinstance(properties, dict) else {}
    before = "{"
    while (yield from source.peek()) == "<" and (yield from source.starts("<parameter=")):
        key = (yield from source.before(">")).strip()
        yield from source.starts(">")
        value = yield from source.before("</parameter>")
        if not (yield from source.starts("</parameter>")):
            return False
        value = value.removeprefix("\n").removesuffix("\n")
        source.found.append(Arguments(f"{before}{_quoted(key)}: {_typed(value, known.get(key))}"))
        before = ", "
    if not source.text:
        return False
    source.found.append(Arguments("{}" if before == "{" else "}"))
    return True


def _typed(text: str, schema: Any) -> str:
    """The JSON of a value that was written without quotes: a string where the schema wants one, or where it is no JSON."""
    of = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
    allowed: Any = of.get("enum")
    if of.get("type") != "string" and not (allowed and all(isinstance(one, str) for one in allowed)):
        bare = PYTHONS.get(text.strip(), text.strip())
        try:
            json.loads(bare, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            pass
        else:
            return bare
    return _quoted(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _object(source: Source, *, known_only: bool = False) -> Reader[bool]:
    """One call as a JSON object; its arguments are handed on as they come once its name is known. `Source.keep` goes first.

    Args:
        known_only: it is a call only if it names a tool that there is.

    Returns:
        Whether it was one, to its end. What was none has been handed on as text.
    """
    name: str | None = None
    arguments: str | None = None
    yield from source.peek()
    source.take(1)
    while (char := (yield from source.peek())) not in ("", "}"):
        if char == ",":
            source.take(1)
            continue
        key: Any = (yield from _value(source)) if char == '"' else None
        if not isinstance(key, str) or (yield from source.peek()) != ":":
            return _no_call(source)
        source.take(1)
        if key in ARGUMENTS and (yield from source.peek()) == "{" and _callable(source, name, known_only):
            source.forget()
            whole = yield from _arguments(source, cast(str, name))
            yield from _rest_of_object(source)
            return whole
        value: Any = yield from _value(source)
        if key == "name" and isinstance(value, str):
            name = value
        elif key in ARGUMENTS:
            arguments = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not char or not _callable(source, name, known_only) or (known_only and arguments is None):
        return _no_call(source, close=bool(char))
    source.take(1)
    source.forget()
    source.found += [Call(cast(str, name)), Arguments(arguments or "{}")]
    return True


def _callable(source: Source, name: str | None, known_only: bool) -> bool:
    return bool(name) and (not known_only or name in source.tools)


def _no_call(source: Source, *, close: bool = False) -> bool:
    """It was text all along."""
    if close:
        source.take(1)
    source.found.append(Text(source.forget()))
    return False


def _value(source: Source) -> Reader[Any]:
    """A JSON value as a whole; None where it is broken."""
    parts: list[str] = []
    yield from source.peek()
    yield from source.pass_json(parts.append)
    try:
        return json.loads("".join(parts))
    except (ValueError, RecursionError):  # the latter: brackets without end
        return None


def _rest_of_object(source: Source) -> Reader[None]:
    """Entries behind the arguments, which say nothing, and the closing bracket."""
    while (char := (yield from source.peek())) not in ("", "}"):
        if char in ",:":
            source.take(1)
        elif char == '"' or char.isalnum() or char in "{[-":
            yield from _value(source)
        else:
            return
    if char:
        source.take(1)
