"""What openllm-core may cost, as tools/bench_core.py measures it: CPU time, which a busy machine changes little."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The program that writes the published figures."""
    path = Path(__file__).resolve().parents[2] / "tools/bench_core.py"
    spec = importlib.util.spec_from_file_location("bench_core", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_importing_the_package_and_reading_a_start_is_cheap(bench: ModuleType) -> None:
    """At most 1.3 of importing attrs, cattrs and orjson bare; every setting of a start in under 5 ms."""
    samples = bench.measure(rounds=5)["samples_ms"]
    assert min(samples["package"]) <= 1.3 * min(samples["bare"])
    assert min(samples["first_reading"]) < 5


def test_the_program_says_what_it_measured_on(bench: ModuleType) -> None:
    """Versions, commit and machine stand beside the figures."""
    found = bench.machine()
    assert found["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert set(found["versions"]) == {"openllm-core", "attrs", "cattrs", "orjson"}
