"""The suite's own rules: a skip needs permission, the fast lanes have no network, lanes follow folders."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import LANES, TESTS, TOTAL_BUDGET_MIN, lane_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("path", "lane"),
    [
        ("lint/test_style.py", "lint"),
        ("lint/test_types.py", "types"),
        ("core/test_serde.py", "unit"),
        ("openllm/engine/test_engine.py", "unit"),
        ("openllm/backends/test_echo.py", "unit"),
        ("openllm/backends/torch/test_backend.py", "torch"),
        ("openllm/engine/test_process.py", "process"),
        ("contract/test_chat.py", "contract"),
        ("e2e/test_start.py", "e2e"),
        ("e2e/test_families.py", "models"),
        ("docs/test_links.py", "docs"),
        ("packaging/test_wheels.py", "packaging"),
        ("packaging/test_pythons.py", "pythons"),
    ],
)
def test_lane_of(path: str, lane: str):
    """A file's folder decides its lane."""
    assert lane_of(TESTS / path).name == lane


def test_budgets_fit():
    """The minutes of the lanes that run one after another add up to less than the whole may take, installing included."""
    for beside in (False, True):
        assert sum(lane.budget_min for lane in LANES if lane.beside is beside) < TOTAL_BUDGET_MIN - 4


def test_lists_of_files_are_current():
    """Each file or folder that a lane names is there."""
    assert [name for lane in LANES for name in lane.folders if not (TESTS / name).exists()] == []


def test_unit_tests_need_neither_torch_nor_a_terminal():
    """No unit test imports a framework, nor what drives a program from outside."""
    heavy = re.compile(r"^\s*(?:import|from) (torch|transformers|bentoml|vllm|pexpect)\b", re.M)
    files = [path for path in TESTS.rglob("test_*.py") if lane_of(path).name == "unit"]
    assert [path for path in files if heavy.search(path.read_text(encoding="utf-8"))] == []


def run_suite(
    tmp_path: Path, test: str, allowed: str = "", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run one small test under a copy of this suite's conftest."""
    tests = tmp_path / "tests"
    tests.mkdir(parents=True, exist_ok=True)
    (tests / "conftest.py").write_text((TESTS / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tests / "allowed_skips.txt").write_text(allowed, encoding="utf-8")
    (tests / "test_it.py").write_text(test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


SKIPPED = "import pytest\n\n@pytest.mark.skip(reason='later')\ndef test_it(): ...\n"


def test_a_skip_without_permission_fails_the_run(tmp_path: Path):
    """It is named, with its reason."""
    done = run_suite(tmp_path, SKIPPED)
    assert done.returncode == 1
    assert "FAILED tests/test_it.py::test_it - skipped: later" in done.stdout


def test_a_listed_skip_is_fine(tmp_path: Path):
    """A line with pattern and reason allows it."""
    assert run_suite(tmp_path, SKIPPED, "tests/test_it.py::* | needs a GPU\n").returncode == 0


def test_a_line_without_a_reason_is_refused(tmp_path: Path):
    """Permission without a reason is none."""
    assert run_suite(tmp_path, SKIPPED, "tests/test_it.py::*\n").returncode != 0


def test_a_skipped_module_needs_permission_too(tmp_path: Path):
    """`importorskip` at the top of a file would hide all its tests."""
    assert run_suite(tmp_path, "import pytest\npytest.importorskip('no_such_module')\n").returncode != 0


def test_fast_lanes_have_no_network(tmp_path: Path):
    """A unit test that reaches out fails at once; loopback is fine."""
    program = (
        "import socket\n\n\ndef test_out():\n    s = socket.socket()\n    s.settimeout(5)\n    s.connect(('192.0.2.1', 9))\n\n\n"
        "def test_loopback():\n    a = socket.create_server(('127.0.0.1', 0))\n    socket.create_connection(a.getsockname())\n"
    )
    done = run_suite(tmp_path, program)
    assert "tried to reach 192.0.2.1" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_one_lane_alone(tmp_path: Path):
    """`--lane` leaves the other lanes' files unread."""
    test = "def test_it(): ...\n"
    assert "1 passed" in run_suite(tmp_path / "1", test, options=("--lane", "unit")).stdout
    assert "no tests ran" in run_suite(tmp_path / "2", test, options=("--lane", "torch")).stdout


def test_the_summary_comes_last(tmp_path: Path):
    """pytest's own line is the last word."""
    done = run_suite(tmp_path, SKIPPED)
    assert "1 skipped in" in done.stdout.strip().splitlines()[-1]


TOLD = "import os, pathlib\n\ndef test_it(worker_id):\n    pathlib.Path(__file__ + '.told').write_text(f'{worker_id} {os.nice(0)}')\n"
WHO = "import pytest, sys\n\n@pytest.fixture\ndef worker_id(request): return request.config.workerinput['workerid']\n"


def with_two_workers(tmp_path: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """Run tests of the unit lane and, in docs/, of one that may run beside it; keywords are paths, with two underscores for a slash."""
    for name, text in {"scheduling": (TESTS / "scheduling.py").read_text(encoding="utf-8"), **files}.items():
        file = tmp_path / "tests" / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return run_suite(tmp_path, WHO + TOLD, options=("-p", "xdist", "-n", "2"))


def test_lanes_marked_beside_step_back(tmp_path: Path):
    """They run in the second worker, at a lower priority; the others in the first."""
    done = with_two_workers(tmp_path, docs__test_b=WHO + TOLD)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    first, second = ((tmp_path / "tests" / name).read_text() for name in ("test_it.py.told", "docs/test_b.py.told"))
    assert first == f"gw0 {os.nice(0)}"
    assert second == f"gw1 {min(os.nice(0) + 5, 19)}"


def test_a_crash_takes_no_other_test_along(tmp_path: Path):
    """What the first worker had before it is run by another; the test that crashed has failed."""
    crash = "import os\n\ndef test_crash(): os._exit(3)\n\ndef test_after(): ...\n"
    done = with_two_workers(tmp_path, test_a=crash, test_b="def test_b(): ...\n")
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr


def test_workers_hide_no_skip(tmp_path: Path):
    """A skipped test, a skipped module: each needs permission, whichever process meets it."""
    module = "import pytest\npytest.importorskip('no_such_module')\n"
    done = with_two_workers(tmp_path, test_a=SKIPPED, docs__test_b=module)
    assert done.returncode == 1
    assert "FAILED tests/test_a.py::test_it - skipped: later" in done.stdout
    assert "FAILED tests/docs/test_b.py - skipped: could not import" in done.stdout
