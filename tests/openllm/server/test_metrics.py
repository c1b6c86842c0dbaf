"""`/metrics`: strictly well-formed, of closed label sets, on a port of its own, and what the documents and panels name."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.openllm.rpc.calling import calling
from tests.openllm.server.serving import serving, text_body
from tools.gen_metrics import DASHBOARD, PAGE, dashboard, families, page

from openllm.server.metrics_port import MetricsPort
from openllm.server.run import bind_metrics
from openllm_core.options import ServerOptions

UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_tokens", "_info")


async def scrape(http: httpx.AsyncClient) -> list[Metric]:
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return list(text_string_to_metric_families(answer.text))


async def test_each_family_is_described_and_well_formed() -> None:
    """HELP and TYPE once for each name, no sample twice, histograms whole, counters that end in _total."""
    async with serving() as served:
        await served.post("/v1/completions", text_body())
        text = (await served.http.get("/metrics")).text
        found = await scrape(served.http)
    names = [family.name for family in found]
    assert len(set(names)) == len(names)
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in found)
    for kind in ("HELP", "TYPE"):
        assert len(re.findall(rf"^# {kind} ", text, re.MULTILINE)) == len(found)
    for family in found:
        assert re.fullmatch(r"(openllm|process)_[a-z0-9_]+", family.name)
        seen = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(set(seen)) == len(seen)
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        if family.type == "histogram":
            buckets = [s.value for s in family.samples if s.name.endswith("_bucket")]
            assert any(s.labels.get("le") == "+Inf" for s in family.samples) and min(buckets) >= 0


async def test_refusals_are_counted_by_code() -> None:
    """Over HTTP and gRPC, by the code that their answer has."""
    async with calling() as called:
        await called.served.post("/v1/completions", text_body(max_tokens=-1))
        await called.served.http.get("/nix")
        text = (await called.served.http.get("/metrics")).text
    assert 'openllm_request_errors_total{code="integer_below_min_value",protocol="http"} 1.0' in text
    assert 'openllm_request_errors_total{code="unknown_url",protocol="http"} 1.0' in text


async def test_a_port_of_its_own() -> None:
    """Without a key, on 127.0.0.1, nothing but /metrics, and only under names of this machine."""
    async with serving(options={"api_key": ("secret-key",)}) as served:
        port = MetricsPort(served.composed.metrics_app, ServerOptions(), bind_metrics(0))
        where = f"http://127.0.0.1:{await port.start()}"
        async with httpx.AsyncClient(base_url=where) as http:
            assert {family.name for family in await scrape(http)} >= {"openllm_slots", "process_open_fds"}
            assert (await http.get("/v1/models")).status_code == 404
            assert (await http.get("/metrics", headers={"host": "evil.test"})).status_code == 403
            assert (await http.post("/metrics")).status_code == 405
        port.close()
        await asyncio.sleep(0)


async def test_the_page_and_the_dashboard_are_what_a_server_shows() -> None:
    """docs/reference/metrics.md lists every family of a scrape; each query of the dashboard asks for such a one."""
    found = await families()
    assert PAGE.read_text(encoding="utf-8") == page(found), "run tools/gen_metrics.py"
    assert DASHBOARD.read_text(encoding="utf-8") == dashboard(), "run tools/gen_metrics.py"
    known = {family.name for family in found}
    shown = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in shown["panels"] for target in panel.get("targets", [])]
    assert len(queries) >= 20
    for query in queries:
        named = re.findall(r"\b(?:openllm|process)_[a-z0-9_]+", query)
        assert named, query
        for name in named:
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in known or name in known, query


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Ids are unique, panels do not overlap, each takes the data source that is chosen above them."""
    shown: dict[str, Any] = json.loads(Path(DASHBOARD).read_text(encoding="utf-8"))
    assert shown["schemaVersion"] >= 39 and shown["uid"] == "openllm"
    assert [(v["name"], v["type"]) for v in shown["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("instance", "query"),
    ]
    ids = [panel["id"] for panel in shown["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in shown["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
