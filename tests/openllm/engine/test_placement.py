"""Which devices each of several engines gets, on machines made up for the test."""

from __future__ import annotations

import pytest

from openllm.engine.placement import describe, place
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


def test_engines_on_one_device_are_told_their_part_of_it() -> None:
    """Which of how many each is, and its part of the memory that is free now; an engine alone is told nothing."""
    cpu = place(EngineOptions(), "4", machine())
    assert [(own.engine_index, own.sharing_engines, own.memory_bytes) for own in cpu] == [
        (number, 4, 8 * GIB) for number in range(4)
    ]
    assert describe(cpu[:2]) == "0: 2 threads, 8.0 GiB; 1: 2 threads, 8.0 GiB"
    gpu = place(EngineOptions(), "3", machine(gpus=2), 2.0)
    assert [(own.device, own.engine_index, own.sharing_engines, own.memory_bytes) for own in gpu] == [
        ("0", 0, 2, GIB // 2),
        ("0", 1, 2, GIB // 2),
        ("1", 0, 1, None),
    ]
    assert describe(gpu) == "0: GPU 0, 0.5 GiB; 1: GPU 0, 0.5 GiB; 2: GPU 1"


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5", "99999"])
def test_what_is_no_number_is_refused(text: str) -> None:
    """Neither a number above 0 nor `all`: the message names flag and text."""
    with pytest.raises(InvalidSetting, match="--engines") as caught:
        place(EngineOptions(), text, machine())
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("device", "share", "expected"),
    [
        ("auto", None, "auto"),  # nothing asked for, nothing changed
        ("0,1,2", None, "0,1,2"),
        ("all", None, "0,1,2,3"),
        ("auto", "round_robin", "0"),
        ("auto", "RoundRobin", "0"),
        ("0,1,2", "0.5", "0,1"),
        ("auto", "conserved", "0,1,2,3"),
        ("2,0", "conserved", "2,0"),
        ("auto", "0.25", "0,1,2,3"),
        ("1,2", "2", "1"),
        ("3", "1", "3"),
    ],
)
def test_one_engine_gets_the_gpus_of_worker_0(device: str, share: str | None, expected: str) -> None:
    """`--workers-per-resource` decides how many of the devices the one engine takes; `conserved` respects `--device`."""
    assert [own.device for own in place(EngineOptions(device=device), "1", machine(gpus=4), share)] == [expected]


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (
            "0.1",
            NoSuitableDevice,
            "--workers-per-resource 0.1 takes 10 GPUs for one engine, and 4 are visible (0, 1, 2, 3).",
        ),
        ("1.5", InvalidSetting, "--workers-per-resource: 1.5 is neither a whole number nor at most 1."),
        ("sometimes", InvalidSetting, "--workers-per-resource: 'sometimes' is neither"),
        ("0", InvalidSetting, "--workers-per-resource: '0' is neither"),
        ("-1", InvalidSetting, "--workers-per-resource: '-1' is neither"),
    ],
)
def test_a_share_that_cannot_be_is_refused(share: str, error: type[Exception], message: str) -> None:
    """The refusal names the flag and what was typed."""
    with pytest.raises(error) as caught:
        place(EngineOptions(), "1", machine(gpus=4), share)
    assert message in str(caught.value)


def test_without_gpus_a_share_means_little() -> None:
    """On a CPU words and whole numbers change nothing; a share of GPUs is refused; `all` is what there is."""
    for share in ("round_robin", "conserved", "1", "2"):
        assert place(EngineOptions(), "1", machine(), share) == [EngineOptions()]
    assert place(EngineOptions(device="all"), "1", machine()) == [EngineOptions()]
    with pytest.raises(InvalidSetting, match=r"--workers-per-resource: 0\.5 shares out GPUs, and none is visible"):
        place(EngineOptions(), "1", machine(), "0.5")


def test_a_gpu_that_is_not_there_is_refused_by_the_flags_name() -> None:
    """What `--device` names is looked for where it decides."""
    with pytest.raises(NoSuitableDevice, match="--device: GPU 7 is not on this machine"):
        place(EngineOptions(device="7"), "1", machine(gpus=4), "1")
