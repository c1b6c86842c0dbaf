"""What a server in a process of its own says of itself: a log that programs read, that nothing blocks and no secret enters."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import httpx
from tests.e2e.conftest import free_port

from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.proto.openllm.v1 import openllm_pb2_grpc

GRPC = "/openllm.v1.OpenLLM"
SECRETS = {
    "OPENLLM_API_KEY": "SENTINEL-api-key",
    "OPENLLM_ADMIN_KEY": "SENTINEL-admin-key",
    "HF_TOKEN": "hf_SENTINELtoken0123456789",
}
PIPE_BYTES = 4096
BEARER = {"authorization": f"Bearer {SECRETS['OPENLLM_API_KEY']}"}


@contextmanager
def started(stderr: int | IO[Any], *words: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`openllm start` on the echo backend, and its endpoint once it is ready."""
    command = [sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", "0", "-o", "porcelain", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | environ)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_all_that_a_server_says_is_json_and_no_secret(tmp_path: Path) -> None:
    """Each line of stderr is an object, the host's own lines and the last error among them; no key, token or prompt anywhere, over
    HTTP or gRPC."""
    said, answers, grpc_port = tmp_path / "said", list[str](), free_port()
    words = ("--log-format", "json", "--debug", "--grpc-port", str(grpc_port))

    with said.open("w") as sink, started(sink, *words, **SECRETS) as (process, url):
        for body in (
            {"prompt": "SENTINEL-prompt"},
            {"prompt": "x", "max_tokens": -1},
            {"prompt": SECRETS["HF_TOKEN"], "n": 99},
        ):
            answers.append(httpx.post(f"{url}/v1/completions", json={"model": "echo", **body}, headers=BEARER).text)
        answers += [
            httpx.get(url + path, headers=BEARER).text for path in ("/metrics", "/v1/models", "/v1/metadata", "/nix")
        ]
        refusals = list(call_over_grpc(grpc_port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not any("SENTINEL" in refusal for refusal in refusals) and len(refusals) == 3
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    assert {line["status"] for line in lines if line.get("route") == f"{GRPC}/Generate"} == {
        "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED"
    }  # fmt: skip
    assert {line["logger"] for line in lines} >= {"openllm.start", "openllm.server"}
    assert any(line.get("route") == "/v1/completions" and line["status"] == "200" for line in lines)
    assert lines[-1]["message"] == "Stopped."
    assert "SENTINEL" not in said.read_text()
    assert not any(secret in answer for secret in SECRETS.values() for answer in answers)
    assert not any("SENTINEL" in answer for answer in answers[1:])


def call_over_grpc(port: int) -> Iterator[str]:
    """Calls with marks in prompt, model, key and metadata: one that is answered, and what those that are refused hear."""
    key = ("authorization", BEARER["authorization"])
    calls = (
        ("SENTINEL-prompt", {}, key),
        ("SENTINEL-prompt", {"sampling": pb.SamplingParams(temperature=9)}, key),
        ("SENTINEL-prompt", {"adapter_name": "no-such"}, key),
        ("SENTINEL-prompt", {}, ("authorization", "Bearer SENTINEL-wrong")),
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = openllm_pb2_grpc.OpenLLMStub(channel)
        for prompt, fields, shown in calls:
            try:
                stub.Generate(
                    pb.GenerateRequest(prompt=prompt, **fields), metadata=(shown, ("x-mark", "SENTINEL-mark"))
                )
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                yield f"{error.details()} {error.trailing_metadata()}"


def test_why_a_server_ends_is_json_too(tmp_path: Path) -> None:
    """The last line is the error, with what mends it."""
    said = tmp_path / "said"
    words = ("--log-format", "json", "--engine-arg", "fail_load=broken")
    with said.open("w") as sink, started(sink, *words) as (process, _):
        assert process.wait(60) != 0
    last = json.loads(said.read_text().splitlines()[-1])
    assert last["level"] == "error" and "broken" in last["message"] and last["hint"]


def test_a_stderr_that_nobody_reads_stops_neither_requests_nor_the_end() -> None:
    """A pipe that is full: every request is answered, and SIGTERM ends the server cleanly."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with started(writing, "--debug", "--log-format", "json") as (process, url), httpx.Client() as http:
        os.close(writing)
        said = 0
        while said < 4 * PIPE_BYTES:
            answer = http.get(f"{url}/livez", headers={"x-request-id": "i" * 64})
            assert answer.status_code == 200
            said += 2 * 64  # the id stands in a line twice
        assert http.post(f"{url}/v1/completions", json={"model": "echo", "prompt": "hi"}).json()["choices"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    os.close(reading)


def test_a_log_file_is_opened_anew_on_sighup(tmp_path: Path) -> None:
    """--log-file takes the log, stderr keeps the talk; after SIGHUP lines go into a new file, and the server goes on."""
    log, said = tmp_path / "openllm.log", tmp_path / "said"
    with said.open("w") as sink, started(sink, "--log-file", str(log), "--log-format", "json") as (process, url):
        httpx.get(f"{url}/v1/models")
        wait_until(lambda: '"/v1/models"' in log.read_text())
        log.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGHUP)
        wait_until(log.exists)
        httpx.get(f"{url}/v1/metadata")
        wait_until(lambda: '"/v1/metadata"' in log.read_text())
        assert "Ready in" in said.read_text()


def test_metrics_on_a_port_of_their_own() -> None:
    """The start says where; no key is needed there."""
    with started(subprocess.PIPE, "--metrics-port", "0", **SECRETS) as (process, url):
        assert process.stderr is not None
        where = next(word for line in process.stderr for word in line.split() if word.endswith("/metrics"))
        assert "openllm_slots" in httpx.get(where).text
        assert httpx.get(f"{url}/metrics").status_code == 401
