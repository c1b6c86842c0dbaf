"""Reads the lines of a JSONL file as training examples, or says which line is wrong and why.

Called by a fine-tuning run before anything heavy is loaded. Knows three shapes of a line and nothing of tokens or models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import orjson

from openllm_core.errors import InvalidDataset

SHAPES: tuple[tuple[str, ...], ...] = (("messages",), ("prompt", "completion"), ("text",))
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROLES = ("system", "user", "assistant", "tool")
WANTED = 'One of {"text": …}, {"prompt": …, "completion": …}, {"messages": [{"role": …, "content": …}, …]} a line.'


@attrs.frozen(kw_only=True)
class Example:
    """One line.

    Attributes:
        line: its number in the file, from 1; 0 for an example that comes from no file.
        text: to be learnt whole.
        prompt, completion: the completion is learnt, the prompt only read.
        messages: a conversation, rendered with the model's chat template; the assistant's turns are learnt.
    """

    line: int = 0
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[dict[str, str], ...] | None = None


@attrs.frozen(kw_only=True)
class Dataset:
    """What a file held.

    Attributes:
        sha256: of the file's bytes; tells a resumed run whether it is the same file.
        ignored: names of keys that no shape knows, in the order they were met.
    """

    examples: tuple[Example, ...]
    sha256: str
    ignored: tuple[str, ...]


def read_dataset(path: Path) -> Dataset:
    """Read a file of JSON lines in UTF-8; empty lines are passed over, the three shapes may be mixed.

    Raises:
        InvalidDataset: naming the first line that cannot be used, or that there is none.
    """
    digest = hashlib.sha256()
    examples: list[Example] = []
    ignored: dict[str, None] = {}
    for number, raw in _lines(path):
        digest.update(raw)
        raw = raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw
        if not raw.strip():
            continue
        row = _object(path, number, raw)
        shape = _shape(path, number, row)
        examples.append(_example(path, number, row, shape))
        ignored |= dict.fromkeys(key for key in row if key not in shape)
    if not examples:
        raise InvalidDataset(f"{path.name} holds no examples.", hint=WANTED)
    return Dataset(examples=tuple(examples), sha256=digest.hexdigest(), ignored=tuple(ignored))


def refuse(path: Path, line: int, problem: str, hint: str | None = WANTED) -> InvalidDataset:
    """The error for one line."""
    return InvalidDataset(f"{path.name}, line {line}: {problem}", hint=hint, param=f"line {line}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise InvalidDataset(f"{path} cannot be read: {error.strerror}.") from error


def _object(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise refuse(path, number, f"not JSON: {error}.") from None
    if not isinstance(row, dict):
        raise refuse(path, number, f"a JSON object is needed, not {_kind(row)}.")
    return cast("dict[str, Any]", row)


def _shape(path: Path, number: int, row: dict[str, Any]) -> tuple[str, ...]:
    found = [shape for shape in SHAPES if any(key in row for key in shape)]
    if len(found) != 1:
        said = " and ".join("/".join(shape) for shape in found)
        raise refuse(
            path, number, f"has {said}: which one is meant?" if found else "has none of the keys we learn from."
        )
    missing = [key for key in found[0] if key not in row]
    if missing:
        raise refuse(path, number, f"has no {missing[0]!r}.")
    return found[0]


def _example(path: Path, number: int, row: dict[str, Any], shape: tuple[str, ...]) -> Example:
    if shape == ("messages",):
        return Example(line=number, messages=_messages(path, number, row["messages"]))
    for key in shape:
        if not isinstance(row[key], str):
            raise refuse(path, number, f"{key!r} must be text, not {_kind(row[key])}.")
    learnt = row[shape[-1]]
    if not learnt.strip():
        raise refuse(path, number, f"{shape[-1]!r} is empty.")
    return Example(line=number, **{key: row[key] for key in shape})


def _messages(path: Path, number: int, given: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(given, list) or not given:
        raise refuse(path, number, "'messages' must be a list of messages.")
    turns: list[dict[str, str]] = []
    for index, turn in enumerate(cast("list[Any]", given)):
        where = f"messages[{index}]"
        if not isinstance(turn, dict):
            raise refuse(path, number, f"{where} must be an object, not {_kind(turn)}.")
        role, content = (cast("dict[str, Any]", turn).get(key) for key in ("role", "content"))
        if role not in ROLES:
            raise refuse(path, number, f"{where}.role is {role!r}.", f"One of {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise refuse(path, number, f"{where}.content must be text, not {_kind(content)}.")
        turns.append({"role": role, "content": content})
    if not any(turn["role"] == "assistant" for turn in turns):
        raise refuse(path, number, "no message is the assistant's: there is nothing to learn.")
    return tuple(turns)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(cast("type[Any]", type(value)), "null")
