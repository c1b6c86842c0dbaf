"""--workers-per-resource: words and numbers, and the GPUs of each worker as measured on 0.3.5."""

from __future__ import annotations

import logging

import pytest

from openllm_core.errors import InvalidSetting
from openllm_core.resources.workers import devices_of_worker, parse, worker_count, worker_environment


@pytest.mark.parametrize(
    ("text", "devices", "gpu_count", "value"),
    [
        ("round_robin", (), 4, 1.0),
        ("round-robin", (), 0, 1.0),
        ("RoundRobin", (), 0, 1.0),
        ("conserved", (), 0, 1.0),
        ("conserved", (), 4, 0.25),
        ("conserved", ("0", "2"), 4, 0.5),
        ("0.5", (), 0, 0.5),
        ("1", (), 0, 1.0),
        ("2", (), 0, 2.0),
    ],
)
def test_words_and_numbers(text: str, devices: tuple[str, ...], gpu_count: int, value: float) -> None:
    """`conserved` shares the named devices, else all there are."""
    assert parse(text, devices=devices, gpu_count=gpu_count) == value


@pytest.mark.parametrize("text", ["0", "-1", "1e-1", "nan", "inf", "many", ""])
def test_anything_else_is_refused(text: str) -> None:
    """By the flag's name."""
    with pytest.raises(InvalidSetting) as caught:
        parse(text)
    assert caught.value.param == "--workers-per-resource"


def test_named_devices_without_a_gpu_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """`--device` has no effect then."""
    with caplog.at_level(logging.WARNING, "openllm"):
        assert parse("conserved", devices=("0",)) == 1.0
    assert "--device has no effect" in caplog.text


@pytest.mark.parametrize(
    ("gpus", "workers_per_resource", "index", "expected"),
    [
        ("0,1", 1, 0, "0"),
        ("0,1", 1, 1, "1"),
        ("2,7", 1, 1, "7"),
        ("2,7", 1, 2, ValueError),
        ("0,1", 2, 0, "0"),
        ("0,1", 2, 1, "0"),
        ("0,1", 2, 2, "1"),
        ("2,7", 2, 1, "2"),
        ("2,7", 2, 2, "7"),
        ("2,7", 0.5, 0, "2,7"),
        ("2,7,8,9", 0.5, 0, "2,7"),
        ("2,7,8,9", 0.5, 1, "8,9"),
        ("2,7,8,9", 0.25, 0, "2,7,8,9"),
        ("2,6,7,8,9", 0.4, 0, "2,6"),
        ("2,6,7,8,9", 0.4, 1, "7,8"),
        ("2,6,7,8,9", 0.4, 2, "9"),
        ("2,6,7,8,9", 0.4, 3, ""),
        ("0,1,2", 0.5, 0, "0,1"),
        ("2,7,8,9", 0.6, 0, "2,7"),
        ("2,7,8,9", 0.3, 0, "2,7,8"),
        ("2,7,8,9", 0.75, 0, "2"),
        ("2,7,8,9", 0.33, 1, "9"),
        ("2,7", 1.0, 0, "2"),
        ("2,7", 1.0, 1, "7"),
        ("2,7", 1.0, 5, ""),
        ("2,7", 0.25, 0, IndexError),
        ("2,7", 1.5, 0, ValueError),
    ],
)
def test_gpus_of_each_worker(
    gpus: str, workers_per_resource: float, index: int, expected: str | type[Exception]
) -> None:
    """Row by row."""
    if isinstance(expected, str):
        assert ",".join(devices_of_worker(gpus.split(","), workers_per_resource, index)) == expected
    else:
        with pytest.raises(expected):
            devices_of_worker(gpus.split(","), workers_per_resource, index)


@pytest.mark.parametrize("gpus", [["2", "7"], ["2", "7", "9"], []])
@pytest.mark.parametrize("workers_per_resource", [1, 0.5, 0.4])
def test_a_gpu_server_has_one_worker(gpus: list[str], workers_per_resource: float) -> None:
    """Whatever was asked for, even when the list of GPUs is empty."""
    assert worker_count(workers_per_resource, gpus=gpus, cpus=8) == 1


@pytest.mark.parametrize(
    ("workers_per_resource", "cpus", "threads", "count"),
    [
        (1, 4, True, 1),
        (2, 4, True, 2),
        (3.0, 4, True, 3),
        (1, 4, False, 4),
        (2, 4, False, 8),
        (0.5, 4, False, 2),
        (1, 1.5, False, 2),
    ],
)
def test_cpu_workers(workers_per_resource: float, cpus: float, threads: bool, count: int) -> None:
    """By CPU, or as many as asked for where one worker fills them all."""
    assert worker_count(workers_per_resource, gpus=None, cpus=cpus, threads=threads) == count


def test_less_than_one_worker_on_a_cpu_is_refused() -> None:
    """Half a worker cannot be started."""
    with pytest.raises(ValueError, match=r"not 0\.5"):
        worker_count(0.5, gpus=None, cpus=4)


def test_the_environment_of_a_gpu_worker() -> None:
    """Its slice, unless the operator switched GPUs off."""
    for off in ("", "-1"):
        environ = {"CUDA_VISIBLE_DEVICES": off}
        assert worker_environment(["2", "7"], 1, 0, cpus=2, environ=environ) == environ
    found = worker_environment(["2", "7"], 1, 1, cpus=2, environ={"CUDA_VISIBLE_DEVICES": "2,7"})
    assert found == {"CUDA_VISIBLE_DEVICES": "7"}


def test_the_environment_of_a_cpu_worker() -> None:
    """No GPU, threads for its CPUs, and what is set already is kept."""
    found = worker_environment([], 1, 0, cpus=1.5, environ={"MKL_NUM_THREADS": "7"})
    assert found["CUDA_VISIBLE_DEVICES"] == "-1"
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("2", "7")
    assert worker_environment([], 1, 0, cpus=4, environ={}, threads=False)["OMP_NUM_THREADS"] == "1"
