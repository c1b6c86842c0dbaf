"""`openllm doctor` and `openllm start --check`: one report, one exit code; and what a start says of its checks."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.openllm.serialisation.small import model_folder
from tests.openllm.test_doctor import LLAMA, machine

from openllm.cli import doctor
from openllm.cli.command import Session
from openllm.cli.output import Output
from openllm.doctor import installation
from openllm.doctor.finding import Finding
from openllm.doctor.installation import BadPair

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store, and nothing of the operator's own settings."""
    for name in ("CUDA_VISIBLE_DEVICES", "OPENLLM_API_KEY", "OPENLLM_MODEL_ID", "OPENLLM_DEVICE", "OPENLLM_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))


def test_limits_carry_their_source(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each effective limit says where its value comes from: a flag, a variable, a default, or built in."""
    monkeypatch.setenv("OPENLLM_MAX_QUEUE", "7")
    words = ("doctor", "--backend", "echo", "--port", "0", "--max-num-seqs", "3", "-o", "json")
    found = json.loads(run(*words).stdout)
    told = {f["data"]["name"]: f["data"] for f in found["findings"] if f["name"] == "limit"}
    assert (told["max_num_seqs"]["value"], told["max_num_seqs"]["source"]) == (3, "explicit")
    assert (told["max_queue"]["value"], told["max_queue"]["source"]) == (7, "environment")
    assert told["server_timeout"]["source"] == "default"
    assert told["max_header_bytes"]["source"] == told["max_n"]["source"] == "default"
    assert told["max_error_chars"]["source"] == "built in"


def test_the_command_and_the_flag_say_the_same(run: Run) -> None:
    """`openllm doctor` and `openllm start --check` print one report and end with one code; JSON is pure."""
    for extra, status in (
        ((), 0),
        (("--device", "7"), 71),
        (("--engines", "x", "--device", "7"), 71),
        (("--host", "0.0.0.0"), 78),
    ):
        words = ("--backend", "echo", "--port", "0", "-o", "json", *extra)
        one, other = run("doctor", *words), run("start", "--check", *words)
        assert one.exit_code == other.exit_code == status
        report = json.loads(one.stdout)
        assert report["exit_code"] == status
        assert report["ok"] is (status == 0)
        kinds = [(f["name"], f["level"]) for f in report["findings"]]
        assert kinds == [(f["name"], f["level"]) for f in json.loads(other.stdout)["findings"]]


def test_the_report_shows_the_fix_below_the_red_line(run: Run) -> None:
    """For people: a sign, the name, what is so; below a red line the command that mends it; the sum on stderr."""
    found = run("doctor", "--backend", "echo", "--host", "0.0.0.0", "--port", "0")
    lines = found.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("✗"))
    assert "without a key" in lines[at]
    assert lines[at + 1].strip().startswith("→ Set OPENLLM_API_KEY")
    assert "1 would stop a start" in found.stderr
    assert found.exit_code == 78
    bare = run("doctor", "--backend", "echo", "--port", "0", "-o", "porcelain")
    assert all(line.count("\t") == 3 for line in bare.stdout.splitlines())


def test_start_prints_only_the_red_lines(run: Run) -> None:
    """Before anything is fetched a start makes the same checks; the last red line is its error, others stand before it."""
    words = ("--backend", "echo", "--host", "0.0.0.0", "--device", "7")
    found = run("start", *words)
    assert found.stdout == ""
    errors = [line for line in found.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 2
    assert "GPU 7" in errors[0] and "without a key" in errors[1]
    assert found.exit_code == 78


def test_a_reason_that_two_checks_meet_is_told_once(run: Run, tmp_path: Path) -> None:
    """What neither the backend nor the estimate of memory can do is one error."""
    folder = model_folder(tmp_path / "tiny", config=LLAMA)
    found = run("start", str(folder), "--backend", "pt", "--quantize", "gptq", "--port", "0")
    assert found.exit_code == 78
    assert found.stderr.count("Error:") == found.stderr.count("`openllm quantize MODEL --calibration FILE`") == 1


def test_start_and_doctor_end_with_one_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that break each other are 78, a taken port alone 71; both together 78, whichever is found last."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ("--backend", "echo", "--port", str(taken.getsockname()[1]))
        assert run("start", *words).exit_code == run("doctor", *words).exit_code == 71
        pair = BadPair("bentoml", "attrs", "", "they quarrel", "pip uninstall attrs")
        monkeypatch.setattr(installation, "BAD_PAIRS", (pair,))
        found = run("start", *words)
        assert found.exit_code == run("doctor", *words).exit_code == 78
    errors = [line for line in found.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 2 and "they quarrel" in errors[0] and "listens on" in errors[1]


def test_a_model_too_large_is_refused_by_start_before_it_loads(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`openllm start` ends with 71 and need, have and the largest context, and no model was loaded."""
    folder = model_folder(tmp_path / "tiny", config=LLAMA)
    monkeypatch.setattr("openllm_core.resources.detect.machine", lambda **_: machine(1000))
    monkeypatch.setattr("openllm.server.run.serve", lambda *_, **__: pytest.fail("it was served"))
    found = run("start", str(folder), "--backend", "pt", "--port", "0")
    assert found.exit_code == 71
    assert "1,000 are free. No context would fit" in found.stderr


def test_long_findings_are_folded_behind_their_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal a line that does not fit goes on below itself, words whole; what is piped stays one line."""
    finding = Finding(
        "store", "warn", "/a/rather/long/path: 2 whole models, 364 bytes", "openllm models verify a-long-name"
    )
    monkeypatch.setattr(Output, "width", 40)
    doctor._print(finding, Output("pretty", Session()))
    assert capsys.readouterr().out.splitlines() == [
        "! store      /a/rather/long/path: 2",
        "             whole models, 364 bytes",
        "             → openllm models verify",
        "             a-long-name",
    ]
    monkeypatch.setattr(Output, "width", 10_000)
    doctor._print(finding, Output("pretty", Session()))
    assert len(capsys.readouterr().out.splitlines()) == 2
