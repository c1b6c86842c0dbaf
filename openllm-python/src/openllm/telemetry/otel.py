"""Telemetry: an observer that makes spans and histograms of requests, by OpenTelemetry's conventions for GenAI, and sends them.

A request is a server span; below it one span for what was asked of the model, and below that its wait in line, its prefill
and its decode. Spans are made from the times an `Observation` has, so that nothing is done per token. Sending has threads of
its own; a collector that is away holds up no request, and the end of the server for a few seconds at most.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openllm.access_log import ASKED_BY_MACHINES
from openllm.observation import Observation, Timed
from openllm_core.errors import InvalidSetting

CLOSE_S = 3.0
SAY_AGAIN_S = 60.0
PROVIDER = "openllm"
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
HISTOGRAMS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "gen_ai.client.token.usage": ("{token}", "Tokens of a request, in and out.", TOKENS),
    "gen_ai.client.operation.duration": ("s", "Duration of a request of the model.", SECONDS),
    "gen_ai.server.request.duration": ("s", "The same, as the server sees it.", SECONDS),
    "gen_ai.server.time_to_first_token": ("s", "Until the first token.", FIRST_TOKEN),
    "gen_ai.server.time_per_output_token": ("s", "Per token after the first.", PER_TOKEN),
}
"""Name -> unit, text and bounds, as the conventions give them."""
GRPC_CODES = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
OUR_FAULT = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

Attributes = dict[str, Any]


class Telemetry:
    """The observer. Where a collector is, and how it is spoken to, is what OpenTelemetry's variables say.

    Args:
        environ: where those are.

    Raises:
        InvalidSetting: a protocol that there is not.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        _say_rarely(logging.getLogger("opentelemetry"))
        facts: Attributes = {"service.version": version("openllm"), "service.instance.id": str(uuid.uuid4())}
        if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            facts[SERVICE_NAME] = "openllm"
        resource = Resource.create(facts)
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        if sends(environ, "TRACES"):
            self._traces.add_span_processor(BatchSpanProcessor(span_exporter(environ)))
        readers = [PeriodicExportingMetricReader(metric_exporter(environ))] if sends(environ, "METRICS") else []
        self._meters = MeterProvider(readers, resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("openllm", version("openllm"))
        meter = self._meters.get_meter("openllm", version("openllm"))
        self._histograms: dict[str, Histogram] = {
            name: meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=bounds)
            for name, (unit, text, bounds) in HISTOGRAMS.items()
        }
        self._propagator = TraceContextTextMapPropagator()
        self._open: dict[Observation, Span] = {}

    def begin(self, seen: Observation, headers: Mapping[str, str]) -> None:
        """Begin the server's span, below the caller's where its headers name one (W3C trace context)."""
        if seen.route in ASKED_BY_MACHINES:
            return
        parent = self._propagator.extract({name: headers[name] for name in headers if name.startswith("trace")})
        name, attributes = _as_server(seen)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=seen.began_ns)
        self._open[seen] = span
        context = span.get_span_context()
        seen.trace_id, seen.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"

    def end(self, seen: Observation) -> None:
        """End it, with what is below it; and count."""
        span = self._open.pop(seen, None)
        if span is None:
            return
        if seen.operation:
            self._operation(seen, span)
            self._count(seen)
        span.set_attributes(_outcome(seen))
        if failure := _failure(seen):
            span.set_attribute("error.type", failure)
            if _is_ours(seen):
                span.set_status(Status(StatusCode.ERROR))
        span.end(seen.at_ns(seen.ended))

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Send what is left, as far as that goes within the limit. Blocks."""
        threads = [
            threading.Thread(target=provider.shutdown, name="openllm-telemetry", daemon=True)
            for provider in (self._traces, self._meters)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + limit_s
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    # -- spans --------------------------------------------------------------------------------------------------------

    def _operation(self, seen: Observation, server: Span) -> None:
        """What was asked of the model; below it, for each prompt, where its time went."""
        attributes = _shared(seen) | _sampling(seen) | _usage(seen) | _content(seen)
        name = f"{seen.operation} {seen.model}"
        span = self._tracer.start_span(
            name, set_span_in_context(server), SpanKind.INTERNAL, attributes, start_time=seen.began_ns
        )
        if failure := _failure(seen):
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", failure)
        below = set_span_in_context(span)
        for stream in seen.streams:
            for part, begun, done in _parts(stream, seen.ended):
                child = self._tracer.start_span(part, below, start_time=seen.at_ns(begun))
                child.end(seen.at_ns(done))
        span.end(seen.at_ns(seen.ended))

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _count(self, seen: Observation) -> None:
        shared = _shared(seen)
        timed = shared | ({"error.type": failure} if (failure := _failure(seen)) else {})
        record = self._histograms
        record["gen_ai.client.operation.duration"].record(seen.duration_s, timed)
        record["gen_ai.server.request.duration"].record(seen.duration_s, timed)
        if seen.first_token_s is not None:
            record["gen_ai.server.time_to_first_token"].record(seen.first_token_s, shared)
        for stream in seen.streams:
            later = stream.completion_tokens - max(1, len(stream.finish_reasons))
            if later > 0 and stream.last_token_at > stream.first_token_at:
                per_token = (stream.last_token_at - stream.first_token_at) / later
                record["gen_ai.server.time_per_output_token"].record(per_token, shared)
        for kind, count in (("input", seen.prompt_tokens), ("output", seen.completion_tokens)):
            if count:
                record["gen_ai.client.token.usage"].record(count, shared | {"gen_ai.token.type": kind})


# -- what the conventions call it ---------------------------------------------------------------------------------------


def _as_server(seen: Observation) -> tuple[str, Attributes]:
    """Name and attributes of the server's span."""
    if seen.protocol == "grpc":
        service, _, method = seen.route.strip("/").partition("/")
        return f"{service}/{method}", {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    facts = {"http.request.method": seen.method, "http.route": seen.route, "url.path": seen.route}
    return f"{seen.method} {seen.route}", facts


def _outcome(seen: Observation) -> Attributes:
    found: Attributes = {"openllm.request_id": seen.request_id}
    if seen.key:
        found["openllm.key"] = seen.key
    if seen.protocol == "http" and seen.status:
        found["http.response.status_code"] = int(seen.status)
    elif seen.status in GRPC_CODES:
        found["rpc.grpc.status_code"] = GRPC_CODES.index(seen.status)
    return found


def _failure(seen: Observation) -> str:
    """`error.type`; "" where all went well."""
    if seen.error:
        return seen.error
    return "client_left" if seen.status in ("499", "CANCELLED", "") else ""


def _is_ours(seen: Observation) -> bool:
    return seen.status in OUR_FAULT if seen.protocol == "grpc" else not seen.status or seen.status >= "500"


def _shared(seen: Observation) -> Attributes:
    """On spans and on every measurement: all from closed sets."""
    return {
        "gen_ai.operation.name": seen.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": seen.model,
        "gen_ai.response.model": seen.model,
    }


def _sampling(seen: Observation) -> Attributes:
    wanted = seen.sampling
    if wanted is None:
        return {}
    found: Attributes = {
        "gen_ai.request.max_tokens": wanted.max_tokens,
        "gen_ai.request.temperature": wanted.temperature,
        "gen_ai.request.top_p": wanted.top_p,
        "gen_ai.request.frequency_penalty": wanted.frequency_penalty,
        "gen_ai.request.presence_penalty": wanted.presence_penalty,
        "gen_ai.request.seed": wanted.seed,
        "gen_ai.request.choice.count": wanted.n if wanted.n != 1 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _usage(seen: Observation) -> Attributes:
    found: Attributes = {"gen_ai.usage.input_tokens": seen.prompt_tokens}
    if seen.operation != "embeddings":
        found["gen_ai.usage.output_tokens"] = seen.completion_tokens
        found["gen_ai.response.finish_reasons"] = seen.finish_reasons
    if seen.adapter:
        found["openllm.adapter"] = seen.adapter
    if seen.queue_s is not None:
        found["openllm.queue_s"] = seen.queue_s
    if seen.first_token_s is not None:
        found["openllm.first_token_s"] = seen.first_token_s
    return found


def _content(seen: Observation) -> Attributes:
    """Prompts and answers, where the operator typed --log-prompts."""
    if not seen.transcripts:
        return {}
    asked = [_message("user", str(transcript.prompt)) for transcript in seen.transcripts]
    answered = [_message("assistant", text) for transcript in seen.transcripts for text in transcript.answers()]
    return {"gen_ai.input.messages": json.dumps(asked), "gen_ai.output.messages": json.dumps(answered)}


def _message(role: str, text: str) -> Attributes:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _parts(stream: Timed, ended: float) -> list[tuple[str, float, float]]:
    """(name, begin, end) of what a prompt went through, as far as it got."""
    moments = [stream.admitted_at, stream.submitted_at, stream.first_token_at, stream.last_token_at]
    found: list[tuple[str, float, float]] = []
    for name, begun, done in zip(("queue", "prefill", "decode"), moments, moments[1:], strict=False):
        if not begun:
            break
        found.append((name, begun, done or ended))
    return found


# -- to the collector ---------------------------------------------------------------------------------------------------


def sends(environ: Mapping[str, str], signal: str) -> bool:
    """Whether a signal ("TRACES", "METRICS") is to be sent: where an endpoint is named for it, and it is not switched off."""
    named = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return bool(named) and environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() != "none"


def protocol_of(environ: Mapping[str, str], signal: str) -> str:
    """`grpc` or `http/protobuf`, the latter where nothing is said.

    Raises:
        InvalidSetting: another one is asked for.
    """
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    asked = environ.get(name) or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if asked not in ("grpc", "http/protobuf"):
        raise InvalidSetting(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={asked[:40]!r} is not one we speak: grpc, http/protobuf.", param=name
        )
    return asked


def span_exporter(environ: Mapping[str, str]) -> SpanExporter:
    """What sends spans."""
    if protocol_of(environ, "TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def metric_exporter(environ: Mapping[str, str]) -> MetricExporter:
    """What sends metrics."""
    if protocol_of(environ, "METRICS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


class _Forward(logging.Handler):
    """Says in our log what the exporters complain of, each complaint once a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._said.get(record.name, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said[record.name] = now
            logging.getLogger("openllm.telemetry").warning("%s", record.getMessage())


def _say_rarely(logger: logging.Logger) -> None:
    if not any(isinstance(handler, _Forward) for handler in logger.handlers):
        logger.addHandler(_Forward())
        logger.propagate = False
