"""Which models' own Python code is left aside, because transformers has their classes by now."""

from __future__ import annotations

from typing import Any

import pytest

from openllm_core.families.own_code import is_replaced

FALCON: dict[str, Any] = {
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "auto_map": {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"},
}


def test_code_that_transformers_replaced_is_left_aside() -> None:
    """A Falcon folder with its old code needs no trust."""
    assert is_replaced(FALCON)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": None},
        {"auto_map": "modeling_falcon.FalconForCausalLM"},
        {"auto_map": {"AutoModelForCausalLM": "someone/else--modeling_falcon.FalconForCausalLM"}},
        {"auto_map": {"AutoModelForCausalLM": ["modeling_falcon.FalconForCausalLM"]}},
        {"architectures": []},
        {"architectures": "FalconForCausalLM"},
        {"architectures": [1]},
        {"architectures": ["LlamaForCausalLM"]},
        {"architectures": ["NobodysForCausalLM"]},
        {"model_type": "RefinedWeb"},
    ],
    ids=str,
)
def test_other_code_still_needs_trust(change: dict[str, Any]) -> None:
    """Of another repository, of a type or an architecture that transformers has no class for, or said in another way."""
    assert not is_replaced(FALCON | change)
