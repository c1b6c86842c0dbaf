"""Threads and the OpenMP preload of a CPU engine, as variables for its host."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.openllm.backends.vllm.facts import cpu_machine, gpu_machine

from openllm.backends.vllm import launch, threads
from openllm_core.options import EngineOptions

OPTIONS = EngineOptions(model_path="m")


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if intel-openmp were installed."""
    monkeypatch.setattr(threads, "openmp_library", lambda: Path("/env/lib/libiomp5.so"))


def siblings(root: Path, *pairs: str) -> Path:
    """A /sys in which hyper-threads share cores."""
    for pair in pairs:
        for core in pair.split(","):
            file = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(pair + "\n")
    return root


@pytest.mark.usefixtures("intel")
def test_with_the_preload_every_core_computes() -> None:
    """Two cores, two threads; the library is preloaded and told how long to spin."""
    found = threads.variables(OPTIONS, cpu_machine(cores=2), {}, Path("/nowhere"))
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert found["LD_PRELOAD"] == "/env/lib/libiomp5.so"
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["KMP_AFFINITY"].endswith("proclist=[0,1]")


def test_without_it_one_core_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that spin against the event loop cost more than a core gives."""
    monkeypatch.setattr(threads, "openmp_library", lambda: None)
    found = threads.variables(OPTIONS, cpu_machine(cores=4), {}, Path("/nowhere"))
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "0,1,2"
    assert "LD_PRELOAD" not in found
    assert found["OMP_PLACES"] == "{0,1,2}"


@pytest.mark.usefixtures("intel")
def test_hyper_threads_do_not_compute(tmp_path: Path) -> None:
    """One thread for each physical core, unless more are asked for."""
    root = siblings(tmp_path, "0,2", "1,3")
    machine = cpu_machine(cores=4)
    assert threads.variables(OPTIONS, machine, {}, root)["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    three = EngineOptions(model_path="m", threads=3)
    assert threads.variables(three, machine, {}, root)["VLLM_CPU_OMP_THREADS_BIND"] == "0,1,2"


def bound(number: int, engines: int, **machine: int) -> str:
    """Cores of one of several engines."""
    options = EngineOptions(model_path="m", engine_index=number, sharing_engines=engines)
    return threads.variables(options, cpu_machine(**machine), {}, Path("/nowhere"))["VLLM_CPU_OMP_THREADS_BIND"]


@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize(
    ("engines", "machine", "cores"),
    [
        (2, {"cores": 2}, ["0", "1"]),
        (3, {"cores": 8}, ["0,1", "2,3,4", "5,6,7"]),
        (2, {"cores": 4, "nodes": 2}, ["0,1", "2,3"]),
        (3, {"cores": 8, "nodes": 2}, ["0,1", "4,5,6,7", "2,3"]),
    ],
)
def test_engines_on_one_cpu_have_cores_of_their_own(engines: int, machine: dict[str, int], cores: list[str]) -> None:
    """A node each while there are enough, else they divide what they meet on; no core computes for two."""
    assert [bound(number, engines, **machine) for number in range(engines)] == cores


@pytest.mark.usefixtures("intel")
def test_engines_divide_hyper_threads_too(tmp_path: Path) -> None:
    """More threads than an engine has cores: it takes siblings of its own part."""
    root = siblings(tmp_path, "0,2", "1,3")
    one, two = (
        threads.variables(
            EngineOptions(model_path="m", engine_index=number, sharing_engines=2, threads=2),
            cpu_machine(cores=4),
            {},
            root,
        )["VLLM_CPU_OMP_THREADS_BIND"]
        for number in range(2)
    )
    assert (one, two) == ("0,2", "1,3")


@pytest.mark.usefixtures("intel")
def test_each_rank_has_a_node() -> None:
    """Two ranks on two nodes; their workers are processes that vLLM binds itself."""
    options = EngineOptions(model_path="m", tensor_parallel_size=2)
    found = threads.variables(options, cpu_machine(cores=4, nodes=2), {}, Path("/nowhere"))
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|2,3"
    assert "OMP_NUM_THREADS" not in found


@pytest.mark.usefixtures("intel")
def test_what_the_user_set_stays() -> None:
    """Binding, preload and single variables can be set from outside; another preload is kept beside ours."""
    assert "VLLM_CPU_OMP_THREADS_BIND" not in threads.variables(
        OPTIONS, cpu_machine(), {"VLLM_CPU_OMP_THREADS_BIND": "1"}, Path("/nowhere")
    )
    mine = {"LD_PRELOAD": "/x/libgomp.so.1", "OMP_NUM_THREADS": "7"}
    found = threads.variables(OPTIONS, cpu_machine(), mine, Path("/nowhere"))
    assert "LD_PRELOAD" not in found and "OMP_NUM_THREADS" not in found
    other = threads.variables(OPTIONS, cpu_machine(), {"LD_PRELOAD": "/x/libjemalloc.so"}, Path("/nowhere"))
    assert other["LD_PRELOAD"] == "/x/libjemalloc.so:/env/lib/libiomp5.so"


def test_the_line_says_what_is_in_force() -> None:
    """Count, cores and library, or that vLLM chooses."""
    line = threads.describe({"VLLM_CPU_OMP_THREADS_BIND": "0,1", "LD_PRELOAD": "/env/lib/libiomp5.so"})
    assert line.startswith("threads: 2 on cores 0,1 (libiomp5.so preloaded")
    assert "as vLLM chooses" in threads.describe({})


def test_a_gpu_engine_is_not_bound() -> None:
    """Threads are bound on a CPU alone; the devices that were asked for are the visible ones."""
    options = EngineOptions(model_path="m", device="0")
    found = launch.environment(options, gpu_machine(40))
    assert "VLLM_CPU_OMP_THREADS_BIND" not in found
    assert found["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(
        EngineOptions(model_path="m", device="all"), gpu_machine(40)
    )
    assert (
        launch.environment(EngineOptions(model_path="m", device="cpu"), cpu_machine())["CUDA_VISIBLE_DEVICES"] == "-1"
    )


def test_compiled_artefacts_are_kept_in_our_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the program's cache folder, unless the user has said where."""
    monkeypatch.setenv("OPENLLM_HOME", str(tmp_path))
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it for a process that compiled
    found = launch.environment(OPTIONS, cpu_machine())
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
    assert "VLLM_CACHE_ROOT" not in found
