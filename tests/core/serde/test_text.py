"""Strict JSON parsing: what is refused, how fast, and that everything else comes through unchanged."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm_core.errors import InvalidRequest
from openllm_core.serde import dumps, loads

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(_json)
def test_legal_json_comes_through_unchanged(value: Any) -> None:
    """Any value the standard parser writes, with or without escapes, is read back equal."""
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=60))
def test_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    """No input ends in any other exception, and what is accepted the standard parser accepts as well."""
    try:
        value = loads(data)
    except InvalidRequest as error:
        assert error.wire_code in {"invalid_json", "json_too_deep"}
    else:
        assert value == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nul",
        b"{} x",
        b"{}{}",
        b"[1,]",
        b'{"a": NaN}',
        b"Infinity",
        b"1e999",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'[{"x": 1, "y": 2, "x": 3}]',
        b'{"\\u0061": 1, "a": 2}',
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'"\xc0\xaf"',
        b'"\\ud800"',
        b'"unclosed',
        b'"\\',
        b'{"a": "b\\"}',
        b"9" * 5000,
        '"\ud800"',
    ],
)
def test_malformed_json_is_refused(data: bytes | str) -> None:
    """Truncated, trailing, non-finite, repeated keys, bad UTF-8, surrogates, a byte order mark: all `invalid_json`."""
    with pytest.raises(InvalidRequest) as caught:
        loads(data)
    assert caught.value.wire_code == "invalid_json"
    assert len(caught.value.message) < 300


def test_colons_and_brackets_inside_strings_are_text() -> None:
    """The checks made before parsing do not look into strings, escaped quotes included."""
    value = {"a:b{[": 'c"}:{"[' * 100, "d": {"e": [{"f": ":\\"}]}, "": {"": {}}}
    assert loads(json.dumps(value)) == value


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    """64 levels are read, 65 are refused before parsing."""
    inner = b"[]" if opening == b"[" else b"{}"
    loads(opening * 63 + inner + closing * 63)
    with pytest.raises(InvalidRequest) as caught:
        loads(opening * 64 + inner + closing * 64)
    assert caught.value.wire_code == "json_too_deep"


def test_objects_and_arrays_in_turn_are_levels_too() -> None:
    """An object in an array in an object is three levels, not two."""
    loads(b'{"a":[' * 32 + b"]}" * 32)
    loads(b'{"a":[' * 2 + b"[" * 60 + b"]" * 60 + b"]}" * 2)
    for deeper in (
        b"[" + b'{"a":[' * 32 + b"]}" * 32 + b"]",
        b'{"a":[' * 64 + b"]}" * 64,
        b'{"a":[' * 2 + b'{"b":' + b"[" * 60 + b"]" * 60 + b"}" + b"]}" * 2,
    ):
        with pytest.raises(InvalidRequest) as caught:
            loads(deeper)
        assert caught.value.wire_code == "json_too_deep"


def test_depth_counts_levels_not_brackets() -> None:
    """Many brackets side by side are no depth; the limit is the caller's."""
    assert len(loads(b"[" + b"[[]]," * 1000 + b"0]")) == 1001
    with pytest.raises(InvalidRequest):
        loads(b"[[[]]]", max_depth=2)


def test_unbalanced_brackets_are_invalid_not_deep() -> None:
    """Brackets that do not pair are malformed JSON, whatever their number."""
    for data in (b"[" * 50 + b"}" * 50, b"]" * 100, b"[}" * 100):
        with pytest.raises(InvalidRequest) as caught:
            loads(data)
        assert caught.value.wire_code == "invalid_json"


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 1_000_000,
        b"[]" * 500_000,
        b'"' + b'\\"' * 500_000,
        b'"\\' * 300_000,
        b"[[]," * 250_000,
        b"{" * 500_000 + b"}" * 500_000,
        b"[}" * 500_000,
    ],
)
def test_hostile_bodies_cost_no_more_than_their_size(hostile: bytes) -> None:
    """A megabyte that is all brackets or quotes is refused in a moment: no step goes back over the text."""
    begin = time.process_time()
    with pytest.raises(InvalidRequest):
        loads(hostile)
    assert time.process_time() - begin < 2


def test_nul_in_text_round_trips() -> None:
    """NUL is a character like any other."""
    assert loads(dumps({"prompt": "a\0b"})) == {"prompt": "a\0b"}


@settings(max_examples=50)
@given(_json)
def test_dumps_is_the_inverse(value: Any) -> None:
    """What is written is read back equal."""
    assert loads(dumps(value)) == value


def test_numbers_written_are_always_legal() -> None:
    """NaN and infinities, which JSON has no word for, become null."""
    assert dumps([float("nan"), float("inf"), -0.5]) == b"[null,null,-0.5]"


def test_sets_are_written_sorted_and_strangers_are_refused() -> None:
    """A set has one form; a type without a form is an error, not its repr."""
    assert dumps({"a": {3, 1, 2}}) == b'{"a":[1,2,3]}'
    with pytest.raises(TypeError):
        dumps(object())
