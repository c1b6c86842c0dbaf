"""Files of examples: three shapes of a line, and every other line refused by its number."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from openllm.finetune import read_dataset
from openllm_core.errors import InvalidDataset

GOOD = {"text": "fine"}


def write(path: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    raw = [json.dumps(line).encode() if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in raw))
    return path


def test_the_three_shapes_may_be_mixed(tmp_path: Path) -> None:
    """Each line is read by its own keys; empty lines count in the numbers and are passed over."""
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    file = write(
        tmp_path / "d.jsonl", {"text": "a"}, "", {"prompt": "b", "completion": "c"}, "   ", {"messages": turns}, ""
    )
    found = read_dataset(file)
    assert [example.line for example in found.examples] == [1, 3, 5]
    first, second, third = found.examples
    assert (first.text, second.prompt, second.completion, third.messages) == ("a", "b", "c", tuple(turns))
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_other_keys_are_named_not_read(tmp_path: Path) -> None:
    """An id or a source in a line is no error, and no secret either."""
    found = read_dataset(write(tmp_path / "d.jsonl", GOOD | {"id": 7}, GOOD | {"source": "x", "id": 8}))
    assert found.ignored == ("id", "source")
    assert len(found.examples) == 2


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    """Files written on Windows read like others."""
    assert read_dataset(write(tmp_path / "d.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode())).examples[0].line == 1


USER = {"role": "user", "content": "hi"}
BAD: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    (b'{"text": "\xff"}', "not JSON"),
    ("[1]", "not a list"),
    ("null", "not null"),
    ({}, "has none of the keys"),
    ({"txt": "a"}, "has none of the keys"),
    ({"prompt": "a"}, "has no 'completion'"),
    ({"completion": "a"}, "has no 'prompt'"),
    ({"text": "a", "prompt": "b", "completion": "c"}, "which one is meant"),
    ({"text": 3}, "'text' must be text, not a number"),
    ({"text": True}, "not true or false"),
    ({"text": "  "}, "'text' is empty"),
    ({"prompt": "a", "completion": ""}, "'completion' is empty"),
    ({"prompt": None, "completion": "a"}, "'prompt' must be text, not null"),
    ({"messages": []}, "must be a list of messages"),
    ({"messages": "hi"}, "must be a list of messages"),
    ({"messages": ["hi"]}, "messages[0] must be an object, not text"),
    ({"messages": [USER, {"role": "bot", "content": "x"}]}, "messages[1].role is 'bot'"),
    ({"messages": [{"role": "assistant", "content": [{}]}]}, "messages[0].content must be text, not a list"),
    ({"messages": [USER]}, "nothing to learn"),
]


@pytest.mark.parametrize(("line", "problem"), BAD, ids=[f"{i}-{row[1]}" for i, row in enumerate(BAD)])
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: Any, problem: str) -> None:
    """The message names file, line and what is wrong; the hint says what a line looks like."""
    with pytest.raises(InvalidDataset) as caught:
        read_dataset(write(tmp_path / "d.jsonl", GOOD, "", line, GOOD))
    assert caught.value.message.startswith("d.jsonl, line 3: ")
    assert problem in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 65


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    """Nothing but line ends is nothing; a file that is not there is named."""
    with pytest.raises(InvalidDataset, match="holds no examples"):
        read_dataset(write(tmp_path / "d.jsonl", "", ""))
    with pytest.raises(InvalidDataset, match="cannot be read"):
        read_dataset(tmp_path / "absent.jsonl")
