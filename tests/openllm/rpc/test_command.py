"""`openllm start --grpc-port` and `start-grpc` as processes: the page's program works, a port that is taken, a drain."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.proto.openllm.v1 import openllm_pb2_grpc

PAGE = Path(__file__).resolve().parents[3] / "docs/how-to/grpc.md"
STATUS = health_pb2.HealthCheckResponse


def command(verb: str, *words: str) -> list[str]:
    """A command line of ours on the echo backend."""
    return [sys.executable, "-m", "openllm", verb, "--backend", "echo", "-o", "json", *words]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_both_servers_share_a_process_and_end_together() -> None:
    """The page's program prints an answer; SIGTERM tells health, lets a stream end, and the process ends with 0."""
    port = free_port()
    script = ("--engine-arg", f"reply={'a' * 80}", "--engine-arg", "step_s=0.02")
    words = command("start", "--port", "0", "--grpc-port", str(port), *script)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline() not in ("}\n", ""):
                pass
            program = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
            assert program is not None
            code = program[1].replace("127.0.0.1:3001", f"127.0.0.1:{port}")
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout == "a" * 32 + "\n"
            taken = command("start-grpc", "--port", str(port))
            refused = subprocess.run(taken, capture_output=True, text=True, timeout=60, check=False)
            assert refused.returncode == 71 and f"127.0.0.1:{port}" in refused.stderr and refused.stdout == ""
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stream = openllm_pb2_grpc.OpenLLMStub(channel).GenerateStream(
                    pb.GenerateRequest(prompt="hi", sampling=pb.SamplingParams(max_tokens=80))
                )
                text = next(stream).text
                watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                assert next(watching).status == STATUS.SERVING
                threading.Timer(0, process.send_signal, (signal.SIGTERM,)).start()
                assert next(watching).status == STATUS.NOT_SERVING
                watching.cancel()
                assert text + "".join(chunk.text for chunk in stream) == "a" * 80
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_start_grpc_serves_grpc_alone() -> None:
    """What it prints is the address; HTTP is not there."""
    words = command("start-grpc", "--port", "0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            while not said.endswith("}\n"):
                said += process.stdout.readline()
            address = json.loads(said)["endpoint"]
            with grpc.insecure_channel(address) as channel:
                assert openllm_pb2_grpc.OpenLLMStub(channel).Metadata(pb.MetadataRequest()).backend == "echo"
            host, _, port = address.partition(":")
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert not sock.recv(64).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
