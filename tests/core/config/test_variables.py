"""Variables that are set for nothing are told."""

from __future__ import annotations

import pytest

from openllm_core.config.variables import GONE, known, unread


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("OPENLLM_PROT", "OPENLLM_PORT"),
        ("OPENLLM_GENERATION_TEMPRATURE", "OPENLLM_GENERATION_TEMPERATURE"),
        ("OPENLLM_SAMPLING_STOPP", "OPENLLM_SAMPLING_STOP"),
        ("OPENLLM_USE_LLAMA2_PROMTP", "OPENLLM_USE_LLAMA2_PROMPT"),
        ("OPENLLM_MODELID", "OPENLLM_MODEL_ID"),
    ],
)
def test_a_misspelt_variable_names_the_right_one(wrong: str, right: str) -> None:
    """Of settings, fields and own fields alike."""
    (line,) = unread({wrong: "1", "PATH": "/bin"})
    assert line == f"{wrong}: no setting is called so; did you mean {right}?"


def test_variables_that_are_read_or_are_not_ours_are_left_alone() -> None:
    """Those that Kubernetes sets for a service called openllm, and those of a Bento, too."""
    service = {
        "OPENLLM_MODEL": "llama",
        "OPENLLM_SERVICE_HOST": "x",
        "OPENLLM_SERVICE_PORT": "1",
        "OPENLLM_PORT_3000_TCP_ADDR": "x",
    }
    assert unread(dict.fromkeys(known(), "1") | service | {"HOME": "/root"}) == []
    assert unread({}) == []


def test_variables_of_0_3_5_that_are_gone_say_why() -> None:
    """Where they are set and not empty; none of them is read."""
    assert unread({"OPENLLM_DEV_BUILD": "True", "CONVERTER": ""}) == [
        f"OPENLLM_DEV_BUILD: nothing reads it any more; {GONE['OPENLLM_DEV_BUILD']}"
    ]
    assert not set(GONE) & known()
