"""Which devices each of several engines gets, on machines made up for the test."""

from __future__ import annotations

import pytest

from openllm.engine.placement import place
from openllm_core.errors import InvalidSetting, NoSuitableDevice
from openllm_core.options import EngineOptions
from openllm_core.resources.detect import Gpu, Machine

GIB = 2**30


def machine(gpus: int = 0, cores: int = 8) -> Machine:
    """A machine with so many GPUs and cores."""
    return Machine(
        cores=cores,
        physical_cores=cores,
        memory_total_bytes=64 * GIB,
        memory_available_bytes=32 * GIB,
        gpus=tuple(
            Gpu(index=i, uuid=f"GPU-{i}", name="A", memory_total_bytes=GIB, memory_free_bytes=GIB) for i in range(gpus)
        ),
    )


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator of the test machine may have hidden its GPUs; these are made up."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def devices(options: EngineOptions, engines: str, found: Machine, share: float = 1.0) -> list[str]:
    """Device of each engine."""
    return [own.device for own in place(options, engines, found, share)]


def test_one_engine_is_left_as_it_is() -> None:
    """The default asks nothing of the machine and changes nothing."""
    options = EngineOptions(device="1")
    assert place(options, "1") == [options]


@pytest.mark.parametrize(
    ("engines", "share", "expected"),
    [
        ("2", 1.0, ["0", "1"]),
        ("all", 1.0, ["0", "1", "2", "3"]),
        ("all", 0.5, ["0,1", "2,3"]),
        ("2", 0.5, ["0,1", "2,3"]),
        ("3", 2.0, ["0", "0", "1"]),
        ("all", 2.0, ["0", "0", "1", "1", "2", "2", "3", "3"]),
    ],
)
def test_each_engine_gets_its_workers_gpus(engines: str, share: float, expected: list[str]) -> None:
    """Engine i gets the GPUs of worker i, by `--workers-per-resource`."""
    assert devices(EngineOptions(), engines, machine(gpus=4), share) == expected


def test_only_named_gpus_are_shared_out() -> None:
    """`--device` names the GPUs of all engines together."""
    assert devices(EngineOptions(device="3,1"), "all", machine(gpus=4)) == ["3", "1"]


@pytest.mark.parametrize(("engines", "share", "fits"), [("5", 1.0, "4"), ("3", 0.5, "2"), ("9", 2.0, "8")])
def test_more_engines_than_gpus_are_refused(engines: str, share: float, fits: str) -> None:
    """The refusal names the flag and what would fit."""
    with pytest.raises(NoSuitableDevice) as caught:
        place(EngineOptions(), engines, machine(gpus=4), share)
    assert caught.value.param == "--engines"
    assert caught.value.hint == f"Ask for fewer: --engines {fits}."


def test_engines_on_a_cpu_share_its_cores() -> None:
    """Each computes with its share of the cores, unless the operator chose; `all` is one engine."""
    assert [own.threads for own in place(EngineOptions(), "3", machine())] == [2, 2, 2]
    assert [own.threads for own in place(EngineOptions(threads=1), "2", machine())] == [1, 1]
    assert place(EngineOptions(), "all", machine()) == [EngineOptions()]
    assert [own.threads for own in place(EngineOptions(device="cpu"), "2", machine(gpus=4))] == [4, 4]
    with pytest.raises(NoSuitableDevice, match="8 cores"):
        place(EngineOptions(), "9", machine())


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5", "99999"])
def test_what_is_no_number_is_refused(text: str) -> None:
    """Neither a number above 0 nor `all`: the message names flag and text."""
    with pytest.raises(InvalidSetting, match="--engines") as caught:
        place(EngineOptions(), text, machine())
    assert repr(text) in caught.value.message
