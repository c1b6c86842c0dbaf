"""Traces and metrics as a collector gets them: a real exporter, over HTTP and over gRPC, into a receiver that parses OTLP."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from tests.openllm.rpc.calling import calling
from tests.openllm.server.serving import chat_body, serving, text_body

from openllm import telemetry
from openllm_core.errors import InvalidSetting
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Receiver:
    """What a collector got."""

    def __init__(self) -> None:
        self.traces: list[Any] = []
        self.metrics: list[Any] = []

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> Any:
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def points(self) -> dict[str, list[Any]]:
        """Data points of each histogram, of the last report."""
        scopes = [scope for resource in self.metrics[-1].resource_metrics for scope in resource.scope_metrics]
        return {metric.name: list(metric.histogram.data_points) for scope in scopes for metric in scope.metrics}

    def text(self) -> str:
        return "".join(str(message) for message in (*self.traces, *self.metrics))


def attributes(span: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A collector that speaks HTTP, named by the standard variable."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kind: type[Message]
            into, kind = {
                "/v1/traces": (receiver.traces, trace_service_pb2.ExportTraceServiceRequest),
                "/v1/metrics": (receiver.metrics, metrics_service_pb2.ExportMetricsServiceRequest),
            }[self.path]
            into.append(kind.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield receiver
        server.shutdown()


async def test_a_chat_is_a_trace(collector: Receiver) -> None:
    """Below the caller's span the server's, below it the chat, below that queue, prefill and decode; no prompt in any."""
    async with serving() as served:
        answer = await served.http.post(
            "/v1/chat/completions", json=chat_body("SENTINEL", temperature=0.5), headers={"traceparent": PARENT}
        )
        assert answer.status_code == 200
        assert served.composed.telemetry is not None
        served.composed.telemetry.close(30)
    server, chat = collector.named("POST /v1/chat/completions"), collector.named("chat echo")
    assert server.trace_id.hex() == TRACE and server.parent_span_id.hex() == "00f067aa0ba902b7"
    assert chat.parent_span_id == server.span_id
    parts = [collector.named(name) for name in ("queue", "prefill", "decode")]
    assert all(part.parent_span_id == chat.span_id and part.trace_id == server.trace_id for part in parts)
    moments = [chat.start_time_unix_nano, *(p.start_time_unix_nano for p in parts), chat.end_time_unix_nano]
    assert moments == sorted(moments)
    usage = answer.json()["usage"]
    found = attributes(chat)
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.request.model"] == "echo"
    assert found["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert found["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert found["gen_ai.response.finish_reasons"] == ["stop"] and found["gen_ai.request.temperature"] == 0.5
    assert attributes(server)["http.response.status_code"] == 200
    assert attributes(server)["openllm.request_id"] == answer.headers["x-request-id"]
    assert "SENTINEL" not in collector.text()


async def test_histograms_are_those_of_the_conventions(collector: Receiver) -> None:
    """Tokens by kind, duration, time to the first token, time per token; a probe is neither traced nor counted."""
    async with serving() as served:
        await served.http.post("/v1/completions", json=text_body("hello"))
        await served.http.get("/readyz")
        assert served.composed.telemetry is not None
        served.composed.telemetry.close(30)
    points = collector.points()
    assert set(points) == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }
    tokens = {attributes(point)["gen_ai.token.type"]: point.sum for point in points["gen_ai.client.token.usage"]}
    assert tokens == {"input": 5, "output": 6}
    assert [point.count for point in points["gen_ai.server.request.duration"]] == [1]
    assert not [span for span in collector.spans() if "readyz" in span.name]


async def test_a_refusal_is_marked(collector: Receiver) -> None:
    """The code of the error is the type; only what is our fault makes the server's span one that failed."""
    async with serving() as served:
        await served.http.post("/v1/completions", json=text_body(max_tokens=-1))
        assert served.composed.telemetry is not None
        served.composed.telemetry.close(30)
    server = collector.named("POST /v1/completions")
    assert attributes(server)["error.type"] == "integer_below_min_value" and server.status.code == 0


async def test_prompts_only_where_the_operator_says_so(collector: Receiver) -> None:
    """With --log-prompts the messages stand in the span, in the conventions' form."""
    async with serving(options={"log_prompts": True}) as served:
        await served.http.post("/v1/completions", json=text_body("SENTINEL"))
        assert served.composed.telemetry is not None
        served.composed.telemetry.close(30)
    found = attributes(collector.named("text_completion echo"))
    assert "SENTINEL" in found["gen_ai.input.messages"] and "SENTINEL" in found["gen_ai.output.messages"]


async def test_over_grpc_in_and_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gRPC call carries the trace in its metadata, and a collector may be spoken to by gRPC."""
    receiver = Receiver()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            receiver.traces.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            receiver.metrics.append(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    async with calling() as called:
        request = pb.GenerateRequest(prompt="hi")
        await called.stub.Generate(request, metadata=(("traceparent", PARENT),))
        traced = called.served.composed.telemetry
        assert traced is not None
        traced.close(30)
    server.stop(None)
    span = receiver.named("openllm.v1.OpenLLM/Generate")
    assert span.trace_id.hex() == TRACE and attributes(span)["rpc.grpc.status_code"] == 0
    assert receiver.named("text_completion echo").parent_span_id == span.span_id
    assert receiver.metrics


async def test_a_collector_that_is_away_costs_a_few_seconds_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered as ever, and closing gives up within its limit."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    async with serving() as served:
        assert (await served.http.post("/v1/completions", json=text_body())).status_code == 200
        began = time.monotonic()
        assert served.composed.telemetry is not None
        served.composed.telemetry.close(0.5)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_it_is_asked_for_in_the_standards_words(environ: dict[str, str], expected: bool) -> None:
    """A collector that is named, unless all is switched off."""
    assert telemetry.wanted(environ) is expected


def test_a_protocol_that_there_is_not_is_named() -> None:
    """JSON over HTTP is no choice here; the message says which are."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    with pytest.raises(InvalidSetting, match="http/protobuf"):
        telemetry.begin(environ)


def test_without_the_extra_a_warning_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A platform may set the variables for all it runs: that stops no server."""
    monkeypatch.setattr(telemetry, "installed", lambda: False)
    assert telemetry.begin({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}) is None
    assert "openllm[otel]" in caplog.text


def test_nothing_of_it_is_loaded_where_nobody_asks() -> None:
    """A server without a collector does not even import OpenTelemetry."""
    program = (
        "import os, sys; from openllm import telemetry; assert telemetry.begin({}) is None\n"
        "import openllm.compose, openllm.server.app\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
