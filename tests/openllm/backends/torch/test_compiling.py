"""Compiled feed-forward blocks answer as they did before, and only such blocks are compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.openllm.backends.torch.conftest import load_model
from tests.tiny_models import tiny_checkpoint

from openllm.backends import checkpoint as checkpoint_module
from openllm.backends.torch import compiling, loading, tuning
from openllm.backends.torch.measure import Shape
from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions


def test_blocks_are_found_by_what_they_hold(checkpoints: Path) -> None:
    """Each layer of a Llama has one; OPT keeps its linear layers loose in the layer, so it has none."""
    llama, _ = load_model(tiny_checkpoint("llama", checkpoints))
    assert {type(block).__name__ for block in compiling.blocks(llama.module)} == {"LlamaMLP"}
    assert len(compiling.blocks(llama.module)) == llama.module.config.num_hidden_layers
    opt, _ = load_model(tiny_checkpoint("opt", checkpoints))
    assert compiling.blocks(opt.module) == []


def test_compiled_blocks_give_the_same_logits(checkpoints: Path) -> None:
    """`--compile on` changes how a step is computed, not what comes out; the blocks really are compiled."""
    path = tiny_checkpoint("llama", checkpoints)
    plain, _ = load_model(path)
    compiled, _ = load_model(path, compile="on")
    block: Any = compiling.blocks(compiled.module)[0]
    assert block._compiled_call_impl is not None
    with torch.inference_mode():
        expected, found = plain.whole([1, 2, 3], [4, 5]), compiled.whole([1, 2, 3], [4, 5])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_compiled_is_refused(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--compile on` for an architecture without such blocks, or without a compiler, names the flag and the reason."""
    with pytest.raises(InvalidSetting, match="no feed-forward block") as refused:
        load_model(tiny_checkpoint("opt", checkpoints), compile="on")
    assert refused.value.param == "--compile"

    def fail(*_: Any) -> None:
        raise compiling.CannotCompile("no C++ compiler")

    monkeypatch.setattr(compiling, "_warm", fail)
    with pytest.raises(InvalidSetting, match=r"no C\+\+ compiler"):
        load_model(tiny_checkpoint("llama", checkpoints), compile="on")


def test_a_choice_that_fails_later_is_given_up(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by measurement, the compiler gone since: the model loads and answers uncompiled, and the line says so."""
    path = tiny_checkpoint("llama", checkpoints)

    def fail(*_: Any) -> None:
        raise compiling.CannotCompile("no C++ compiler")

    monkeypatch.setattr(compiling, "_warm", fail)
    asked = EngineOptions(model_path=str(path), device="cpu")
    checkpoint = checkpoint_module.read(path)
    device = torch.device("cpu")
    choice = tuning.Choice(
        dtype="float32",
        linear="plain",
        attention="grouped",
        threads=1,
        compile=True,
        decisions=("compile: on (measured)",),
    )
    model = loading.load(asked, checkpoint, choice, device, lambda text, share: None)
    found = tuning.confirm(asked, checkpoint, choice, model)
    assert found.compile is False
    assert [line for line in found.decisions if line.startswith("compile: off (chosen, but")]
    with torch.inference_mode():
        assert model.whole([1, 2], [3]).shape[0] == 2


def test_a_block_is_measured_both_ways() -> None:
    """The measurement returns seconds of the kind asked about and of the compiled one."""
    shape = Shape(hidden=64, inner=128, heads=4, kv_heads=2, head_dim=16)
    ticks = iter(range(10**6))
    found = compiling.seconds(shape, "float32", "plain", lambda: float(next(ticks)))
    assert set(found) == {"plain", "compiled"}
    assert all(value == 1.0 for value in found.values())
