"""The grammar of CUDA_VISIBLE_DEVICES, measured on 0.3.5, and requests for GPUs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm_core.resources import visible_devices


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("0,1", ["0", "1"]),
        ("0,2,-1,1", ["0", "2"]),
        ("-1", []),
        ("GPU-5ebe9f43-ac33420d4628", ["GPU-5ebe9f43-ac33420d4628"]),
        ("GPU-5ebe9f43,GPU-ac33420d4628", ["GPU-5ebe9f43", "GPU-ac33420d4628"]),
        ("GPU-5ebe9f43,-1,GPU-ac33420d4628", ["GPU-5ebe9f43"]),
        ("MIG-GPU-5ebe9f43-ac33420d4628", ["MIG-GPU-5ebe9f43-ac33420d4628"]),
        ("", []),
        ("0", ["0"]),
        ("0,0", []),
        ("1,1,2", []),
        ("GPU-a,GPU-a", []),
        ("GPU-a,MIG-b", ["GPU-a"]),
        ("MIG-a,GPU-b", ["MIG-a"]),
        ("GPU-a, GPU-b", ["GPU-a"]),
        (" 0, 1", ["0", "1"]),
        ("0 ,1 ", ["0", "1"]),
        ("1gpu2,2ampere", ["1", "2"]),
        ("100m", ["100"]),
        ("abc", []),
        ("all", []),
        ("none", []),
        (",0", []),
        ("-2,1", []),
        ("0,abc,1", ["0"]),
        ("0,,1", ["0"]),
        ("0,GPU-a", ["0"]),
        ("+1", ["1"]),
        ("1.5", ["1"]),
        ("3,-1", ["3"]),
        ("GPU-", ["GPU-"]),
        ("01,1", []),
    ],
)
def test_a_list_ends_at_its_first_bad_element(text: str, devices: list[str]) -> None:
    """And a repeat empties it, as the driver does."""
    assert visible_devices.parse(text) == devices


@given(st.text())
def test_any_text_gives_distinct_names(text: str) -> None:
    """Never an exception, never a repeat."""
    devices = visible_devices.parse(text)
    assert len(set(devices)) == len(devices)


@pytest.mark.parametrize(
    ("spec", "devices"),
    [
        (1, ["0"]),
        (True, ["0"]),
        (2, ["0", "1"]),
        (0, []),
        (-1, []),
        ("3", ["0", "1", "2"]),
        ("0", []),
        ("", []),
        ("-1", []),
        ("-2", []),
        ("abc", []),
        ("2,2", []),
        ("0,1", ["0", "1"]),
        ("1, 3", ["1", "3"]),
        ("1gpu2", ["1"]),
        ("  2", ["2"]),
        ("GPU-288347ab,-1,GPU-ac33420d4628", ["GPU-288347ab"]),
        ("MIG-GPU-288347ab", ["MIG-GPU-288347ab"]),
        ([1, 3], ["1", "3"]),
        (["1", "3"], ["1", "3"]),
        ([], []),
        ([1, 1], ["1", "1"]),
        (["GPU-a"], ["GPU-a"]),
    ],
)
def test_a_request_is_a_count_a_text_or_a_list(spec: Any, devices: list[str]) -> None:
    """A text of digits is a count."""
    assert visible_devices.from_spec(spec) == devices


@pytest.mark.parametrize("spec", [(1, 2, 3), 1.5, None, {}, b"1"])
def test_other_types_are_refused(spec: Any) -> None:
    """By type."""
    with pytest.raises(TypeError):
        visible_devices.from_spec(spec)


def test_a_negative_count_is_refused() -> None:
    """Below -1."""
    with pytest.raises(ValueError, match="-2"):
        visible_devices.from_spec(-2)


def test_an_unset_or_empty_variable_leaves_it_to_the_hardware() -> None:
    """None is not an empty list."""
    assert visible_devices.from_environment({}) is None
    assert visible_devices.from_environment({"CUDA_VISIBLE_DEVICES": ""}) is None
    assert visible_devices.from_environment({"CUDA_VISIBLE_DEVICES": "1,0"}) == ["1", "0"]
