#!/usr/bin/env python3
"""Write docs/reference/metrics.md and docs/grafana/openllm.json: `python3 tools/gen_metrics.py`.

The page comes from a scrape of a real server on the echo backend, the dashboard from the table below; `--check` writes nothing
and fails where one is stale. Needs openllm with the extra grpc.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from openllm.backends.base import EngineStats
from openllm.compose import build
from openllm.engine.engine import Engine
from openllm.engine.supervisor import launch_embedded
from openllm_core.options import EngineOptions, ServerOptions
from openllm_core.proto.openllm.v1 import openllm_pb2, openllm_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/metrics.md"
DASHBOARD = ROOT / "docs/grafana/openllm.json"
WRITTEN = "<!-- Written by tools/gen_metrics.py; change what it reads, not this page. -->"
KEY = "written-by-gen-metrics"

Panel = tuple[str, str, list[tuple[str, str]]]  # title, unit, (legend, query) of each line
RATE, BY_ENGINE = "[$__rate_interval]", "sum by (engine)"
WHERE = '{instance=~"$instance"}'


def rate(name: str, by: str = "") -> str:
    """A counter's rate a second, summed."""
    return f"sum{f' by ({by})' if by else ''} (rate({name}{WHERE}{RATE}))"


def quantile(share: float, name: str, by: str = "") -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket{WHERE}{RATE})))"


def quantiles(name: str) -> list[tuple[str, str]]:
    """Half, 95 and 99 of 100."""
    return [(f"p{share * 100:g}", quantile(share, name)) for share in (0.5, 0.95, 0.99)]


ROWS: list[tuple[str, list[Panel]]] = [
    (
        "What clients see",
        [
            ("Requests", "reqps", [("{{route}} {{status}}", rate("openllm_http_requests_total", "route, status"))]),
            (
                "Refused and failed",
                "reqps",
                [("{{protocol}} {{code}}", rate("openllm_request_errors_total", "protocol, code"))],
            ),
            ("Time to first token", "s", quantiles("openllm_time_to_first_token_seconds")),
            ("Between two tokens", "s", quantiles("openllm_inter_token_latency_seconds")),
            ("Whole request", "s", quantiles("openllm_e2e_request_latency_seconds")),
            ("gRPC calls", "reqps", [("{{method}} {{status}}", rate("openllm_grpc_requests_total", "method, status"))]),
        ],
    ),
    (
        "Load",
        [
            (
                "Tokens",
                "short",
                [
                    ("prompt", rate("openllm_prompt_tokens_total")),
                    ("generated", rate("openllm_generation_tokens_total")),
                ],
            ),
            (
                "Sequences",
                "short",
                [
                    ("running {{engine}}", f"{BY_ENGINE} (openllm_requests_running{WHERE})"),
                    ("slots {{engine}}", f"{BY_ENGINE} (openllm_slots{WHERE})"),
                ],
            ),
            (
                "Waiting line",
                "short",
                [
                    ("waiting {{engine}}", f"{BY_ENGINE} (openllm_requests_waiting{WHERE})"),
                    ("limit {{engine}}", f"{BY_ENGINE} (openllm_queue_limit{WHERE})"),
                ],
            ),
            ("Wait for a slot", "s", quantiles("openllm_queue_time_seconds")),
            ("Refused for load", "reqps", [("{{why}}", rate("openllm_requests_refused_total", "why"))]),
            ("Tokens by key", "short", [("{{key}} {{kind}}", rate("openllm_key_tokens_total", "key, kind"))]),
        ],
    ),
    (
        "Engine",
        [
            ("Ready", "short", [("{{engine}}", f"{BY_ENGINE} (openllm_engine_ready{WHERE})")]),
            (
                "Restarts",
                "short",
                [("{{engine}}", f"{BY_ENGINE} (increase(openllm_engine_restarts_total{WHERE}{RATE}))")],
            ),
            (
                "Cache of keys and values",
                "percentunit",
                [("{{engine}}", f"max by (engine) (openllm_kv_cache_usage_ratio{WHERE})")],
            ),
            (
                "Prefix cache: found of looked up",
                "percentunit",
                [
                    (
                        "share",
                        f"{rate('openllm_prefix_cache_hits_total')} / {rate('openllm_prefix_cache_queries_total')}",
                    )
                ],
            ),
            ("Step", "s", quantiles("openllm_step_seconds")),
            (
                "Sequences in a step",
                "short",
                [("p50", quantile(0.5, "openllm_batch_size")), ("p95", quantile(0.95, "openllm_batch_size"))],
            ),
            ("Finished", "short", [("{{reason}}", rate("openllm_sequences_finished_total", "reason"))]),
            ("Preemptions", "short", [("{{engine}}", rate("openllm_preemptions_total", "engine"))]),
            ("Adapters loaded", "short", [("{{engine}}", f"{BY_ENGINE} (openllm_adapters_loaded{WHERE})")]),
        ],
    ),
    (
        "Process",
        [
            (
                "Memory",
                "bytes",
                [
                    ("server", f"sum (process_resident_memory_bytes{WHERE})"),
                    ("engine {{engine}}", f"{BY_ENGINE} (openllm_engine_resident_memory_bytes{WHERE})"),
                ],
            ),
            ("Processor of the server", "short", [("cores", rate("process_cpu_seconds_total"))]),
            (
                "Files and lost log lines",
                "short",
                [
                    ("open files", f"sum (process_open_fds{WHERE})"),
                    ("lines lost", f"sum (increase(openllm_log_lines_dropped_total{WHERE}{RATE}))"),
                ],
            ),
        ],
    ),
]


def dashboard() -> str:
    """Text of the dashboard's file."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            }
        )
        y += 1
        for at, panel in enumerate(row):
            panels.append(_panel(len(panels) + 1, panel, x=at % 3 * 8, y=y + at // 3 * 8))
        y += (len(row) + 2) // 3 * 8
    made = {
        "uid": "openllm",
        "title": "OpenLLM",
        "tags": ["openllm", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), _instances()]},
        "panels": panels,
    }
    return json.dumps(made, indent=1) + "\n"


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": "label_values(openllm_build_info, instance)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel, *, x: int, y: int) -> dict[str, Any]:
    title, unit, lines = panel
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": source, "expr": query, "legendFormat": legend}
            for at, (legend, query) in enumerate(lines)
        ],
    }


async def families() -> list[Metric]:
    """What a server shows that was asked something over HTTP and gRPC, with all that any backend counts."""
    options = ServerOptions(grpc_port=0, api_key=(KEY,))
    composed = build(EngineOptions(backend="echo"), options, launch=launch_embedded)
    assert composed.rpc is not None and isinstance(composed.engine, Engine)
    headers = {"authorization": f"Bearer {KEY}"}
    transport = httpx.ASGITransport(composed.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http:
        await composed.engine.start()
        await composed.engine.wait_ready(60)
        port = await composed.rpc.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = openllm_pb2_grpc.OpenLLMStub(channel)
            await stub.Metadata(openllm_pb2.MetadataRequest(), metadata=tuple(headers.items()))
        await http.post("/v1/completions", json={"model": "echo", "prompt": "hi"})
        await http.get("/no-such-route")
        composed.engine.metrics.stats = EngineStats(0.0, 0, 0, 0, 0, 0)
        text = (await http.get("/metrics")).text
        await composed.service.aclose()
        await composed.rpc.aclose(0)
    return list(text_string_to_metric_families(text))


def page(found: Sequence[Metric]) -> str:
    """Text of the reference page."""
    rows = ["| name | type | labels | what |", "|---|---|---|---|"]
    for family in sorted(found, key=lambda family: family.name):
        labels = {name for sample in family.samples for name in sample.labels if name != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        named = ", ".join(f"`{label}`" for label in sorted(labels))
        rows.append(f"| `{name}` | {family.type} | {named} | {family.documentation} |")
    return (
        f"# Metrics\n\n{WRITTEN}\n\nWhat `GET /metrics` shows, for Prometheus. Label sets are closed: nothing that a client makes up "
        "becomes one. `engine` is the engine's number, from 0. What a backend does not count is left out: the prefix cache, preemptions and "
        "speculative decoding are vLLM's.\n\n[How to scrape it](../how-to/observe.md).\n\n" + "\n".join(rows) + "\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Write both files, or check them."""
    wanted = {PAGE: page(asyncio.run(families())), DASHBOARD: dashboard()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run python3 tools/gen_metrics.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
