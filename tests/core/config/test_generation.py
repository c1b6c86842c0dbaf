"""The shared fields of a family's configuration."""

from __future__ import annotations

import attrs
import pytest

from openllm_core.config.generation import GENERATION_FIELDS, SAMPLING_FIELDS, GenerationConfig, SamplingConfig
from openllm_core.serde import rule_of


def test_there_are_forty_and_eight() -> None:
    """As many as 0.3.5 had; its clients send them by name."""
    assert len(GENERATION_FIELDS) == 40
    assert len(SAMPLING_FIELDS) == 8
    assert not set(GENERATION_FIELDS) & set(SAMPLING_FIELDS)


def test_items_read_fields() -> None:
    """`config["name"]` is the field; an unknown one a KeyError."""
    assert GenerationConfig()["top_k"] == 50
    assert SamplingConfig(n=2)["n"] == 2
    for name in ("nope", "__class__", "max_tokens"):
        with pytest.raises(KeyError):
            GenerationConfig()[name]


def test_they_cannot_be_changed() -> None:
    """A configuration is a value."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        GenerationConfig().top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize("cls", [GenerationConfig, SamplingConfig])
def test_each_field_says_what_it_is(cls: type[attrs.AttrsInstance]) -> None:
    """For the reference page."""
    assert all(rule_of(a).help.endswith(".") for a in attrs.fields(cls))


@pytest.mark.parametrize(
    ("made", "values", "error"),
    [
        (GenerationConfig, {"top_p": 7}, ValueError),
        (GenerationConfig, {"temperature": "hot"}, TypeError),
        (GenerationConfig, {"max_new_tokens": True}, TypeError),
        (SamplingConfig, {"n": 0}, ValueError),
        (SamplingConfig, {"stop": [1]}, TypeError),
    ],
)
def test_a_wrong_value_names_the_field(made: type, values: dict[str, object], error: type[Exception]) -> None:
    """Made by hand too."""
    with pytest.raises(error, match=rf"^{next(iter(values))}"):
        made(**values)
