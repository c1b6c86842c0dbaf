"""Plain data into attrs values: strict types, ranges, and errors that name the path."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm_core.errors import InvalidRequest
from openllm_core.schema import ChatCompletionRequest, CompletionRequest, Delta, GenerateRequest, LogprobEntry
from openllm_core.serde import dumps, field, loads, rule_of, structure, structure_value, unstructure


@attrs.frozen(kw_only=True)
class Inner:
    """A message inside a message."""

    kind: Literal["a", "b", 3] = field(default="a")
    size: int = field(default=0, ge=0, le=10)


@attrs.frozen(kw_only=True)
class Outer:
    """One of each type."""

    name: str = field(min_length=1, max_length=5, help="Its name.")
    share: float = field(default=0.5, gt=0, lt=1)
    on: bool = field(default=False)
    inner: Inner | None = field(default=None)
    many: list[Inner] = field(default=attrs.Factory(list), max_length=3)
    table: dict[str, int] = field(default=attrs.Factory(dict), le=5, max_length=2)
    pair: tuple[float, ...] = field(default=(), max_length=2)
    free_or_int: int | Any = field(default=None)
    word_or_int: Literal["low", "high"] | int = field(default=0)
    bare_place: tuple[int, str] = field(default=(0, ""))
    place: tuple[int, str] | None = field(default=None)
    text_or_list: str | list[str] | None = field(default=None)
    number: int | float | None = field(default=None)
    word: str = field(default="x", choices=("x", "y"))
    level: int = field(default=1, choices=(1, 2))
    anything: Any = field(default=None)
    bare_list: list = field(default=attrs.Factory(list))
    bare_dict: dict = field(default=attrs.Factory(dict))
    nothing: None = field(default=None)
    count: int | None = field(default=None, ge=1)
    self_made: int = attrs.field(default=7, init=False)


def refused(data: Any, cls: Any = Outer) -> tuple[str | None, str, str]:
    """(param, code, message) of the refusal."""
    with pytest.raises(InvalidRequest) as caught:
        structure(data, cls)
    return caught.value.param, caught.value.wire_code, caught.value.message


def test_good_data_becomes_a_value() -> None:
    """Every type arrives as declared; an int stands in for a float; absent fields take their defaults."""
    made = structure(
        {
            "name": "n",
            "share": 0.25,
            "on": True,
            "inner": {"kind": "b"},
            "many": [{"size": 3}],
            "table": {"k": 1},
            "pair": [1, 2.5],
            "free_or_int": {"x": 1},
            "word_or_int": "low",
            "place": [1, "a"],
            "text_or_list": ["s"],
            "number": 2,
            "anything": [1, {"x": None}],
            "bare_list": [1, "a"],
            "bare_dict": {"a": 1},
        },
        Outer,
    )
    assert made == Outer(
        name="n",
        share=0.25,
        on=True,
        inner=Inner(kind="b"),
        many=[Inner(size=3)],
        table={"k": 1},
        pair=(1.0, 2.5),
        free_or_int={"x": 1},
        word_or_int="low",
        place=(1, "a"),
        text_or_list=["s"],
        number=2,
        anything=[1, {"x": None}],
        bare_list=[1, "a"],
        bare_dict={"a": 1},
    )
    assert isinstance(made.pair, tuple) and isinstance(made.pair[0], float)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"name": ""}, "name", "string_below_min_length"),
        ({"name": "abcdef"}, "name", "string_above_max_length"),
        ({"name": 1}, "name", "invalid_type"),
        ({"name": None}, "name", "invalid_type"),
        ({"share": 0}, "share", "decimal_below_min_value"),
        ({"share": 1}, "share", "decimal_above_max_value"),
        ({"share": "0.5"}, "share", "invalid_type"),
        ({"share": True}, "share", "invalid_type"),
        ({"share": float("nan")}, "share", "invalid_value"),
        ({"share": float("inf")}, "share", "invalid_value"),
        ({"share": 10**400}, "share", "invalid_value"),
        ({"on": 1}, "on", "invalid_type"),
        ({"on": "true"}, "on", "invalid_type"),
        ({"inner": {"size": -1}}, "inner.size", "integer_below_min_value"),
        ({"inner": {"size": 11}}, "inner.size", "integer_above_max_value"),
        ({"inner": {"size": True}}, "inner.size", "invalid_type"),
        ({"inner": {"size": 1.0}}, "inner.size", "invalid_type"),
        ({"inner": {"size": 2.0**70}}, "inner.size", "integer_above_max_value"),
        ({"inner": {"size": -(2.0**70)}}, "inner.size", "integer_below_min_value"),
        ({"inner": {"size": "1"}}, "inner.size", "invalid_type"),
        ({"inner": {"kind": "c"}}, "inner.kind", "invalid_value"),
        ({"inner": {"kind": 4}}, "inner.kind", "invalid_value"),
        ({"inner": {"kind": []}}, "inner.kind", "invalid_type"),
        ({"inner": {"other": 1}}, "inner.other", "unknown_parameter"),
        ({"inner": []}, "inner", "invalid_type"),
        ({"inner": "x"}, "inner", "invalid_type"),
        ({"many": [{}, {"size": 99}]}, "many[1].size", "integer_above_max_value"),
        ({"many": [{}] * 4}, "many", "array_above_max_length"),
        ({"many": {}}, "many", "invalid_type"),
        ({"table": {"a": 1, "b": 6}}, "table.b", "integer_above_max_value"),
        ({"table": {"a": 1, "b": 1, "c": 1}}, "table", "object_above_max_length"),
        ({"table": {1: 1}}, "table", "invalid_type"),
        ({"table": []}, "table", "invalid_type"),
        ({"pair": [1, 2, 3]}, "pair", "array_above_max_length"),
        ({"pair": ["a"]}, "pair[0]", "invalid_type"),
        ({"bare_place": {}}, "bare_place", "invalid_type"),
        ({"word_or_int": "mid"}, "word_or_int", "invalid_value"),
        ({"word_or_int": []}, "word_or_int", "invalid_type"),
        ({"place": [1]}, "place", "array_below_min_length"),
        ({"place": [1, "a", 2]}, "place", "array_above_max_length"),
        ({"place": [1, 2]}, "place[1]", "invalid_type"),
        ({"place": []}, "place", "empty_array"),
        ({"place": {}}, "place", "invalid_type"),
        ({"text_or_list": 5}, "text_or_list", "invalid_type"),
        ({"text_or_list": ["a", 5]}, "text_or_list[1]", "invalid_type"),
        ({"number": "5"}, "number", "invalid_type"),
        ({"word": "z"}, "word", "invalid_value"),
        ({"level": 3}, "level", "invalid_value"),
        ({"nothing": 0}, "nothing", "invalid_type"),
        ({"count": 1.5}, "count", "invalid_type"),
        ({"count": 0}, "count", "integer_below_min_value"),
        ({"count": 2.0**80}, "count", "integer_above_max_value"),
        ({"count": "1"}, "count", "invalid_type"),
        ({"unknown": 1}, "unknown", "unknown_parameter"),
        ({"self_made": 1}, "self_made", "unknown_parameter"),
    ],
)
def test_each_misfit_is_refused_by_path_and_code(change: dict[str, Any], param: str, code: str) -> None:
    """The refusal names the field at fault, however deep, and a code to branch on."""
    found = refused({"name": "n", **change})
    assert found[:2] == (param, code)
    assert found[2].startswith(param)


def test_messages_say_what_is_wanted() -> None:
    """One sentence: the path, what is wanted, what came."""
    assert refused({"name": "n", "share": 2})[2] == "share must be < 1."
    assert refused({"name": "n", "inner": {"size": "1"}})[2] == "inner.size must be an integer, not a string."
    assert refused({"name": "n", "text_or_list": 5})[2] == "text_or_list must be a string or an array, not an integer."
    assert refused({"name": "n", "count": "1"})[2] == "count must be an integer, not a string."
    assert refused({"name": "n", "number": "1"})[2] == "number must be a number, not a string."
    assert refused({"name": "n", "table": object()})[2] == "table must be an object, not a object."


def test_missing_fields_are_named() -> None:
    """A required field that is absent is named, inside a list by its place."""
    assert refused({})[:2] == ("name", "missing_required_parameter")
    body = {"model": "m", "messages": [{"role": "user"}, {"content": "x"}]}
    assert refused(body, ChatCompletionRequest)[:2] == ("messages[1].role", "missing_required_parameter")


@pytest.mark.parametrize("body", [None, [], "text", 5, True, 1.5])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    """The body itself has no path."""
    param, code, message = refused(body)
    assert (param, code) == (None, "invalid_type")
    assert message.startswith("The body must be an object")


def test_unknown_fields_can_be_collected() -> None:
    """With `collect` they are ignored and returned by path, nested ones too; with `refuse` they are an error."""
    body = {"name": "n", "x": 1, "inner": {"y": 1}, "many": [{}, {"z": 1}]}
    made, ignored = structure(body, Outer, unknown="collect")
    assert ignored == ["x", "inner.y", "many[1].z"]
    assert made.many == [Inner(), Inner()]
    assert refused(body)[1] == "unknown_parameter"


def test_a_failed_union_member_leaves_no_trace_among_the_ignored() -> None:
    """Fields that a wrong alternative would have ignored are not reported."""

    @attrs.frozen(kw_only=True)
    class Both:
        item: Inner | Outer = field()

    made, ignored = structure({"item": {"name": "n", "size": 99}}, Both, unknown="collect")
    assert made.item == Outer(name="n")
    assert ignored == ["item.size"]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([1, "a"], "prompt[1]"),
        (["a", "b", 3], "prompt[2]"),
        ([[1], ["x"]], "prompt[1][0]"),
        ([1, 2, 2.5], "prompt[2]"),
        ([[1, 2], [3, True]], "prompt[1][1]"),
    ],
)
def test_the_alternative_that_got_farthest_explains(prompt: Any, param: str) -> None:
    """A list that is almost token ids is refused for the item that is not one."""
    assert refused({"model": "m", "prompt": prompt}, CompletionRequest)[0] == param


def test_no_message_carries_more_than_200_characters_of_input() -> None:
    """Long values, keys and paths are cut in message and param."""
    long = "é" * 5000
    for data in (
        {"name": "n", long: 1},
        {"name": "n", "word": long},
        {"name": "n", "table": {long: "x"}},
        {"name": "n", "inner": {"kind": long}},
    ):
        param, _, message = refused(data)
        assert message.count("é") <= 200
        assert len(message) < 500
        assert len(param or "") <= 200


def test_a_class_that_refuses_its_own_value_is_a_bad_request() -> None:
    """ValueError and TypeError of a validator become invalid_value at the object's path."""

    @attrs.frozen(kw_only=True)
    class Even:
        n: int = attrs.field()

        @n.validator
        def _check(self, attribute: object, value: int) -> None:
            if value % 2:
                raise ValueError("n must be even")

    assert structure({"n": 2}, Even).n == 2
    assert refused({"n": 3}, Even)[1] == "invalid_value"


def test_a_type_that_cannot_be_read_is_a_mistake_of_ours() -> None:
    """An annotation without a reader fails loudly."""
    with pytest.raises(TypeError, match="cannot read"):
        structure({}, set)  # type: ignore[arg-type]


def test_single_values_are_checked_like_fields() -> None:
    """`structure_value` takes a path, a range and choices."""
    assert structure_value(3, int, path="x", ge=1) == 3
    with pytest.raises(InvalidRequest) as caught:
        structure_value(["a", 1], list[str], path="stop")
    assert caught.value.param == "stop[1]"
    with pytest.raises(InvalidRequest):
        structure_value("z", str, path="x", choices=["a"])


def test_plain_attrs_classes_are_read_too() -> None:
    """Classes declared without rules, forward references included, go there and back."""
    delta = Delta(0, "t", [1], logprobs=[LogprobEntry("t", 1, -0.5, [116], [("t", 1, -0.5)])])
    assert structure(loads(dumps(delta)), Delta).logprobs[0].token == "t"  # type: ignore[index]
    assert rule_of(attrs.fields(Delta).index).help == ""


@given(
    st.builds(
        Outer,
        name=st.text(min_size=1, max_size=5),
        share=st.floats(0.01, 0.99),
        on=st.booleans(),
        place=st.none() | st.tuples(st.integers(), st.text()),
        inner=st.none() | st.builds(Inner, size=st.integers(0, 10)),
        many=st.lists(st.builds(Inner, kind=st.sampled_from(["a", "b", 3])), max_size=3),
        table=st.dictionaries(st.text(), st.integers(max_value=5), max_size=2),
        text_or_list=st.none() | st.text() | st.lists(st.text()),
        word=st.sampled_from(["x", "y"]),
    )
)
def test_unstructure_is_the_inverse(value: Outer) -> None:
    """A value taken apart is put together equal."""
    data = unstructure(value)
    del data["self_made"]
    assert structure(data, Outer) == value


def test_unstructure_can_leave_out_none() -> None:
    """Fields that are None go, keys of plain dicts stay."""
    value = GenerateRequest(prompt="p", llm_config={"a": None, "b": (1, 2)})
    assert unstructure(value, omit_none=True) == {
        "prompt": "p",
        "llm_config": {"a": None, "b": [1, 2]},
        "detail": False,
        "echo": False,
    }
    assert unstructure(value)["adapter_name"] is None


BOUNDARY = [
    -1,
    0,
    1,
    2**31,
    2**53,
    2**63 - 1,
    2.0**63,
    2.0**64,
    -0.0,
    float("nan"),
    float("inf"),
    True,
    "1",
    [],
    {},
    1.5,
]


@pytest.mark.parametrize("name", ["max_tokens", "n", "top_k", "seed", "min_tokens", "top_logprobs"])
@pytest.mark.parametrize("value", BOUNDARY, ids=repr)
def test_integer_fields_take_integers_in_range_only(name: str, value: Any) -> None:
    """Whatever stands at a boundary is taken as sent or refused by name; nothing is coerced."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], name: value}
    try:
        made = structure(body, ChatCompletionRequest)
    except InvalidRequest as error:
        assert error.param == name
    else:
        taken = getattr(made, name)
        assert type(taken) is int and taken == value


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"])
@pytest.mark.parametrize("value", BOUNDARY, ids=repr)
def test_decimal_fields_take_finite_numbers_in_range_only(name: str, value: Any) -> None:
    """The same for decimals; an int becomes a float."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], name: value}
    try:
        made = structure(body, ChatCompletionRequest)
    except InvalidRequest as error:
        assert error.param == name
    else:
        taken = getattr(made, name)
        assert type(taken) is float and taken == value and not isinstance(value, bool)
