"""Choices are measured once, remembered, overridden by options, and dropped where they give wrong results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from tests.openllm.backends.torch.conftest import load_model
from tests.tiny_models import tiny_checkpoint

from openllm.backends import checkpoint as checkpoint_module
from openllm.backends.torch import measure, tuning, verify
from openllm.backends.torch.model import GROUPED, LoadedModel
from openllm.backends.torch.tuning import Choice
from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions
from openllm_core.resources.detect import Machine

CPU = torch.device("cpu")
MACHINE = Machine(
    cores=4, physical_cores=4, memory_total_bytes=1 << 33, memory_available_bytes=1 << 33, cpu_model="test"
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    """Scripted measurements: seconds by (dtype, kind) or attention name; 1.0 where not set."""
    seconds: dict[Any, float] = {}
    counted: list[Any] = []

    def linear(shape: measure.Shape, candidates: Any, clock: measure.Clock) -> dict[tuple[str, str], float]:
        counted.extend(candidates)
        return {pair: seconds.get(pair, 1.0) for pair in candidates}

    def attention(shape: measure.Shape, names: Any, dtype: str, clock: measure.Clock) -> dict[str, float]:
        counted.extend(names)
        return {name: seconds.get(name, 1.0) for name in names}

    monkeypatch.setattr(tuning, "linear_seconds", linear)
    monkeypatch.setattr(tuning, "attention_seconds", attention)
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (0.0, 0.0, 0.0))  # whoever else uses this machine now

    def compiled(shape: measure.Shape, dtype: str, kind: str, clock: measure.Clock) -> dict[str, float]:
        counted.append("compiled")
        return {kind: 1.0, "compiled": seconds.get("compiled", 1.0)}

    monkeypatch.setattr(tuning.compiling, "seconds", compiled)
    monkeypatch.setattr(tuning, "SMALL", 0)
    monkeypatch.setattr(tuning.detect, "machine", lambda **_: MACHINE)
    seconds["counted"] = counted  # type: ignore[assignment]
    return seconds


def choose(folder: Path, **options: Any) -> Choice:
    """What would be chosen for a folder."""
    asked = EngineOptions(model_path=str(folder), **options)
    return tuning.choose(asked, checkpoint_module.read(folder), CPU, lambda text, share: None)


def test_the_fastest_is_chosen(measured: dict[Any, float], checkpoints: Path) -> None:
    """Linear layers and attention are those measured fastest, and each choice leaves a line with the figures."""
    path = tiny_checkpoint("llama", checkpoints, dtype="bfloat16")
    measured[("float32", "packed16")] = 0.5
    measured["sdpa"] = 0.25
    choice = choose(path)
    assert (choice.dtype, choice.linear, choice.attention) == ("float32", "packed16", "sdpa")
    assert [line.split(":")[0] for line in choice.decisions] == [
        "dtype",
        "linear layers",
        "threads",
        "attention",
        "compile",
    ]
    assert "2.00" in choice.decisions[1]
    measured[("float32", "onednn")] = 0.4
    assert choose(path).linear == "onednn"


def test_bfloat16_only_where_the_cpu_computes_in_it(
    measured: dict[Any, float], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU without bfloat16 units is never asked to compute in it unless the operator says so."""
    path = tiny_checkpoint("llama", checkpoints, dtype="bfloat16")
    measured[("bfloat16", "plain")] = 0.1
    assert choose(path).dtype == "float32"
    monkeypatch.setattr(tuning.detect, "machine", lambda **_: attrs.evolve(MACHINE, cpu_flags=frozenset({"amx_bf16"})))
    assert choose(path).dtype == "bfloat16"
    assert choose(path, dtype="float32").dtype == "float32"


def test_options_win(measured: dict[Any, float], checkpoints: Path) -> None:
    """What the operator fixed is not measured."""
    path = tiny_checkpoint("llama", checkpoints)
    choice = choose(path, attention="eager", threads=3, compile="off", engine_arg={"linear": "plain"})
    assert (choice.attention, choice.threads, choice.linear) == ("eager", 3, "plain")
    assert set(measured["counted"]) == {("float32", "plain")}  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="linear"):
        choose(path, engine_arg={"linear": "magic"})


@pytest.mark.parametrize("options", [{"quantize": "gptq"}, {"compile": "on", "engine_arg": {"linear": "packed16"}}])
def test_what_cannot_be_done_is_refused(checkpoints: Path, options: dict[str, str]) -> None:
    """An option this backend cannot honour is refused by its flag's name, never ignored."""
    with pytest.raises(InvalidSetting) as refused:
        choose(tiny_checkpoint("llama", checkpoints), **options)
    assert refused.value.param == f"--{next(iter(options))}"


def test_compilation_is_chosen_by_measurement(measured: dict[Any, float], checkpoints: Path) -> None:
    """Compiled blocks are taken with plain layers when they are clearly faster; the figures stand in the line."""
    path = tiny_checkpoint("llama", checkpoints, dtype="bfloat16")
    measured[("float32", "packed16")] = 0.5
    measured["compiled"] = 0.95
    assert (choose(path).compile, choose(path).linear) == (False, "packed16")
    measured["compiled"] = 0.5
    choice = choose(path)
    assert (choice.compile, choice.linear) == (True, "plain")
    assert choice.decisions[-1] == "compile: on (relative speed: packed16 1.00, compiled 2.00)"
    asked = measured["counted"].count("compiled")  # type: ignore[attr-defined]
    assert choose(path, compile="off").compile is False
    assert choose(path, compile="on").compile is True
    assert measured["counted"].count("compiled") == asked  # type: ignore[attr-defined]


def test_where_nothing_compiles_the_choice_says_so(
    measured: dict[Any, float], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler the start goes on and names the reason."""

    def fail(*_: Any) -> dict[str, float]:
        raise tuning.compiling.CannotCompile("no C++ compiler")

    monkeypatch.setattr(tuning.compiling, "seconds", fail)
    choice = choose(tiny_checkpoint("llama", checkpoints))
    assert choice.compile is False
    assert choice.decisions[-1] == "compile: off (torch.compile does not work here: no C++ compiler)"


def test_a_second_start_measures_nothing(measured: dict[Any, float], checkpoints: Path) -> None:
    """What was measured and confirmed is remembered by machine, model shape and options."""
    path = tiny_checkpoint("llama", checkpoints)
    model, _ = load_model(path)
    count = len(measured["counted"])  # type: ignore[arg-type]
    assert count > 0 and model.windowed
    choice = choose(path)
    assert choice.windowed is True and choice.decisions
    assert len(measured["counted"]) == count  # type: ignore[arg-type]
    choose(path, threads=2)
    assert len(measured["counted"]) > count  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["", "[]", "{broken", '{"%s": {"dtype": 1}}', '{"%s": 5}'])
def test_a_spoilt_memory_is_forgotten(measured: dict[Any, float], checkpoints: Path, content: str) -> None:
    """Whatever stands in the file, the worst is that the next start measures again."""
    path = tiny_checkpoint("llama", checkpoints)
    load_model(path)
    key = next(iter(json.loads(tuning.memory_file().read_text())))
    tuning.memory_file().write_text(content.replace("%s", key))
    assert choose(path).windowed is None


def test_where_choices_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OPENLLM_HOME, else XDG_CACHE_HOME, else the user's cache folder."""
    assert tuning.memory_file() == tmp_path / "home" / "pt-tuning.json"
    monkeypatch.delenv("OPENLLM_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert tuning.memory_file() == Path("/x/openllm/pt-tuning.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuning.memory_file() == Path.home() / ".cache" / "openllm" / "pt-tuning.json"


def test_a_wrong_attention_is_dropped(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that does not give the model's own results is never used, however fast."""
    from openllm.backends.torch import attention

    wrong = lambda *arguments, **more: (torch.zeros_like(arguments[1]).transpose(1, 2), None)  # noqa: E731
    monkeypatch.setattr(attention, "grouped_attention", wrong)
    model, _ = load_model(tiny_checkpoint("llama", checkpoints))
    assert model.windowed
    assert model.module.config._attn_implementation == "sdpa"


def test_an_attention_may_round_like_either_of_the_architectures_own(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPUs that compute in bfloat16 eager attention rounds so badly that a better one is far from it, and near sdpa's."""
    exact = verify.reference

    def rounded(model: LoadedModel) -> list[torch.Tensor]:
        badly = model.module.config._attn_implementation == "eager"
        return [logits + logits.std() if badly else logits for logits in exact(model)]

    monkeypatch.setattr(verify, "reference", rounded)
    model, _ = load_model(tiny_checkpoint("llama", checkpoints))
    assert model.windowed
    assert model.module.config._attn_implementation == GROUPED


def test_real_measurements_are_positive(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurements themselves run and give a time for every kind."""
    monkeypatch.setattr(measure, "BUDGET_S", 0.01)
    monkeypatch.setattr(measure, "WORKING_SET_BYTES", 100_000)
    shape = measure.Shape.of(checkpoint_module.read(tiny_checkpoint("llama", checkpoints)))
    assert shape == measure.Shape(hidden=32, inner=64, heads=4, kv_heads=2, head_dim=8)
    pairs = [("float32", kind) for kind in ("plain", "packed16", "onednn")]
    for clock in (time.perf_counter, time.thread_time):
        linear = measure.linear_seconds(shape, pairs, clock)
        attention = measure.attention_seconds(shape, ("grouped", "sdpa"), "float32", clock)
        assert set(linear) == set(pairs) and set(attention) == {"grouped", "sdpa"}
        assert all(seconds > 0 for seconds in [*linear.values(), *attention.values()])


def test_a_busy_machine_leaves_only_the_threads_open(
    measured: dict[Any, float], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it could measure is remembered; the first start on an idle machine measures the threads, and later ones nothing."""
    path = tiny_checkpoint("llama", checkpoints)
    counted: list[Any] = measured["counted"]  # type: ignore[assignment]
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    model, _ = load_model(path)
    assert model.windowed and counted
    counted.clear()
    assert "too busy" in choose(path).decisions[2] and not counted
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    idle = choose(path)
    assert "relative speed" in idle.decisions[2] and idle.windowed is True
    assert counted and set(counted) == {(idle.dtype, idle.linear)}
    counted.clear()
    assert choose(path) == idle and not counted


@pytest.mark.parametrize(("load", "clock"), [(0.0, time.perf_counter), (9.0, time.thread_time)])
def test_a_busy_machine_is_measured_by_cpu_time(
    measured: dict[Any, float], checkpoints: Path, monkeypatch: pytest.MonkeyPatch, load: float, clock: measure.Clock
) -> None:
    """When others use the cores, candidates are compared by the CPU time of one thread, and threads are not measured."""
    clocks: list[measure.Clock] = []
    scripted = tuning.linear_seconds
    monkeypatch.setattr(tuning, "linear_seconds", lambda *given: clocks.append(given[-1]) or scripted(*given))
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (load, load, load))
    choice = choose(tiny_checkpoint("llama", checkpoints))
    assert clocks[0] is clock
    assert ("too busy" in choice.decisions[2]) == (load > 4)
