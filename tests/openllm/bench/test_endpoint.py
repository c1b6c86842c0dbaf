"""A server under test, through a real socket: times, fields it does not know, prompt lengths, errors by kind."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from tests.openllm.bench.fake import FakeEndpoint, ending, event, fake_endpoint, piece
from tests.openllm.server.serving import listening, serving

from openllm.bench.answers import Failure, Sample
from openllm.bench.endpoint import Endpoint, RequestShape
from openllm.bench.exchange import Address
from openllm.bench.load import Level, run_level
from openllm.bench.results import summarise
from openllm.bench.rounds import Plan, measure
from openllm_core.errors import ConnectionFailed, InvalidSetting, StatusError

CLOSE_S = 0.02  # what a busy machine may add


async def opened(fake: FakeEndpoint, **shape: object) -> Endpoint:
    endpoint = Endpoint(fake.address, attrs.evolve(RequestShape(timeout_s=5.0), **shape))
    await endpoint.open()
    fake.seen.clear()
    fake.wrote_at.clear()
    return endpoint


async def test_times_are_those_of_the_server():
    """First text, waits and end are what the server did, to within milliseconds."""
    async with fake_endpoint() as fake:
        endpoint = await opened(fake)
        fake.pauses = [0.06, 0.03, 0.03]
        sample = await endpoint.ask(0)
        assert isinstance(sample, Sample)
        wrote = fake.wrote_at[0]
        assert sample.first_token_s >= 0.06
        assert sample.inter_token_s == pytest.approx((wrote[2] - wrote[0]) / 2, abs=CLOSE_S / 2)
        assert sample.gaps_s == pytest.approx([wrote[1] - wrote[0], wrote[2] - wrote[1]], abs=CLOSE_S)
        assert sample.total_s - sample.first_token_s == pytest.approx(wrote[2] - wrote[0], abs=CLOSE_S)


async def test_percentiles_are_those_of_the_server():
    """Ten requests of scripted pauses: p50 and p90 of the first text lie where they were put."""
    async with fake_endpoint() as fake:
        endpoint = await opened(fake)
        pauses = [0.01 * (number + 1) for number in range(10)]

        async def ask(number: int, due: float) -> Sample | Failure:
            fake.pauses = [pauses[number], 0.0]
            return await endpoint.ask(number, due)

        loaded = await run_level(ask, Level(concurrency=1, requests=10))
        found = summarise(Level(concurrency=1), loaded)
        assert found["first_token_p50_s"] == pytest.approx(0.055, abs=CLOSE_S)
        assert found["first_token_p90_s"] == pytest.approx(0.091, abs=CLOSE_S)
        assert found["tokens"] == 20


@pytest.mark.parametrize("refused", [{"ignore_eos"}, {"stream_options"}, {"ignore_eos", "stream_options"}])
async def test_fields_a_server_refuses_are_left_out(refused: set[str]):
    """The others stay: what can be had for exact figures is taken."""
    async with fake_endpoint() as fake:
        fake.refuse = refused
        endpoint = await opened(fake)
        assert isinstance(await endpoint.ask(0), Sample)
        assert {"ignore_eos", "stream_options"} - set(fake.seen[0]) == refused


@pytest.mark.parametrize(("status", "code"), [(400, 1), (401, 77), (404, 1), (429, 75), (500, 1), (503, 75)])
async def test_a_refusal_of_the_plainest_request_ends_it(status: int, code: int):
    """The server's own words are in the error, and the exit code says what kind it is."""
    async with fake_endpoint() as fake:
        fake.status = status
        with pytest.raises(StatusError, match=rf"http_{status}.*no") as caught:
            await opened(fake)
    assert caught.value.exit_code == code


async def test_nobody_there():
    """A closed port is told as such."""
    with pytest.raises(ConnectionFailed):
        await Endpoint(Address("http://127.0.0.1:9"), RequestShape(timeout_s=5.0)).open()


async def test_prompts_get_the_length_asked_for():
    """Two probes tell how words make tokens here; no two prompts are alike."""
    async with fake_endpoint() as fake:

        def count(body: dict[str, object]) -> list[bytes]:
            words = len(str(body["messages"][0]["content"]).split())  # type: ignore[index]
            return [event(piece("x")), *ending(1, prompt_tokens=20 + 3 * words)]

        fake.answer = count
        endpoint = await opened(fake, input_tokens=500)
        first, second = await endpoint.ask(0), await endpoint.ask(1)
        assert isinstance(first, Sample) and isinstance(second, Sample)
        assert first.prompt_tokens == 500
        assert fake.seen[0]["messages"] != fake.seen[1]["messages"]
        for tail in (ending(None), ending(1, prompt_tokens=9)):  # no count; always the same
            fake.answer = lambda body, tail=tail: [event(piece("x")), *tail]
            with pytest.raises(InvalidSetting, match="does not count prompts"):
                await opened(fake, input_tokens=500)


async def test_errors_are_counted_by_kind():
    """Refused, cut off, late, gone: each its word; the load goes on."""
    async with fake_endpoint() as fake:
        endpoint = await opened(fake)
        fake.status = 503
        assert await endpoint.ask(0) == Failure(kind="http_503", message="no")
        fake.status, fake.cut = 200, True
        assert getattr(await endpoint.ask(1), "kind", "") == "cut"
        fake.cut, fake.hold = False, asyncio.Event()
        endpoint.shape = attrs.evolve(endpoint.shape, timeout_s=0.05)
        assert getattr(await endpoint.ask(2), "kind", "") == "timeout"
        fake.hold.set()
    endpoint.shape = attrs.evolve(endpoint.shape, timeout_s=5.0)
    assert getattr(await endpoint.ask(3), "kind", "") in ("connect", "cut")


async def test_what_is_no_http_is_told():
    """Another protocol on the port is an error of its own kind, not a hang."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        address = Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        endpoint = Endpoint(address, RequestShape(timeout_s=5.0), "m")
        assert getattr(await endpoint.ask(0), "kind", "") == "not_http"


@pytest.mark.parametrize("route", ["chat", "completions"])
async def test_our_own_server_is_measured(route: str):
    """Both routes of a real server: every token is counted, nothing fails, answers have the length asked for."""
    async with serving() as served, listening(served) as port:
        shape = attrs.evolve(RequestShape(output_tokens=20), route=route)
        plan = Plan(shape=shape, levels=[Level(concurrency=4, requests=8)], warmup=2)
        said: list[str] = []
        found = await measure(Endpoint(Address(f"http://127.0.0.1:{port}"), shape), plan, said.append)
    level = found["levels"][0]
    assert (level["completed"], level["failed"], level["tokens"]) == (8, 0, 160)
    assert level["tokens_counted_by"] == "usage"
    assert found["first_request_s"] > 0
    assert said
