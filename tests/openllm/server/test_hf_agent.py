"""`POST /hf/agent`: one step of an agent, as 0.3.5 answered it, and its absence where the model makes no text."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.openllm.server.serving import URL, serving

from openllm.access import Access
from openllm.server.app import create_app
from openllm_core.options import ServerOptions

PATH = "/hf/agent"
REPLY = "Action: search\nObservation: none"


def step(text: str = "Task: find it", **parameters: Any) -> dict[str, Any]:
    return {"inputs": text, "parameters": parameters}


async def test_a_step_is_completed_up_to_a_line_end() -> None:
    """The completion alone, without the stop string that ended it; a line end unless the request says otherwise."""
    async with serving(reply=REPLY) as served:
        answer = await served.post(PATH, step())
        assert (answer.status_code, answer.json()) == (200, [{"generated_text": "Action: search"}])
        whole = await served.post(PATH, step(stop=["none"]))
        assert whole.json() == [{"generated_text": "Action: search\nObservation: "}]
        assert (await served.post(PATH, step(stop=[]))).json() == [{"generated_text": REPLY}]
        assert (await served.post(PATH, step(stop=None))).json() == [{"generated_text": "Action: search"}]


async def test_what_the_agents_of_transformers_send() -> None:
    """Their three parameters, byte for byte as `HfAgent` posted them with a token of their own."""
    body = b'{"inputs": "Task: find it", "parameters": {"max_new_tokens": 200, "return_full_text": false, "stop": ["search"]}}'
    async with serving(reply=REPLY) as served:
        headers = {"authorization": "Bearer hf_unused", "content-type": "application/json"}
        answer = await served.http.post(PATH, content=body, headers=headers)
    assert answer.json() == [{"generated_text": "Action: "}]


async def test_200_tokens_unless_told_otherwise() -> None:
    """The default length is 200 tokens; both names of the field change it."""
    async with serving(reply="x" * 300) as served:
        for parameters, length in (({}, 200), ({"max_new_tokens": 7}, 7), ({"max_tokens": 250}, 250)):
            text = (await served.post(PATH, step(**parameters))).json()[0]["generated_text"]
            assert text == "x" * length


async def test_the_whole_text_and_several_choices() -> None:
    """`return_full_text` puts the prompt first; `n` gives as many texts."""
    async with serving(reply="yes") as served:
        made = (await served.post(PATH, step("Is it? ", return_full_text=True, n=2))).json()
    assert made == [{"generated_text": "Is it? yes"}] * 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"parameters": {}}, "inputs"),
        ({"inputs": "x"}, "parameters"),
        ({"inputs": 5, "parameters": {}}, "inputs"),
        ({"inputs": "x", "parameters": []}, "parameters"),
        ({"inputs": "x", "parameters": {}, "model": "y"}, "model"),
        (step(temperature=7), "parameters.temperature"),
        (step(return_full_text="yes"), "parameters.return_full_text"),
        (step(max_new_token=3), "parameters.max_new_token"),
        (step(max_new_token=None), "parameters.max_new_token"),
        (step(num_beams=4), "parameters.num_beams"),
        (step(max_new_tokens=100_000), "parameters.max_new_tokens"),
        (step("x" * 5000), "inputs"),
    ],
)
async def test_refusals_name_the_field(body: dict[str, Any], param: str) -> None:
    """What is missing, unknown or out of range is a 400 that names it as it was sent; `llm_config` is never spoken of."""
    async with serving(reply=REPLY) as served:
        answer = await served.post(PATH, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert "llm_config" not in error["message"]


async def test_bad_json_and_other_methods() -> None:
    """0.3.5 answered with a traceback and 500; here it is 400. GET is 405, as it was."""
    async with serving(ready=False) as served:
        broken = await served.http.post(PATH, content=b"{", headers={"content-type": "application/json"})
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
        assert (await served.http.get(PATH)).status_code == 405


async def test_steps_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each step is one line at the level INFO: its request and its tokens, and nothing of its text."""
    async with serving(reply=REPLY) as served:
        with caplog.at_level(logging.INFO, logger="openllm"):
            answer = await served.post(PATH, step("Task: secret"))
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("agent step")]
    assert answer.headers["x-request-id"] in line and "out" in line
    assert "secret" not in line and "search" not in line


async def test_without_the_capability_the_route_is_not_there() -> None:
    """A model that makes embeddings alone: metadata says so, the document lists no such route, and asking is a 404."""
    async with serving(reply=REPLY) as served:
        service = served.composed.service
        assert (await served.http.get("/v1/metadata")).json()["supports_hf_agent"] is True
        assert PATH in (await served.http.get("/openapi.json")).json()["paths"]
        service.model = attrs.evolve(service.model, generates=False)
        app = create_app(service, ServerOptions(), CollectorRegistry(), Access(ServerOptions()))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as http:
            assert (await http.get("/v1/metadata")).json()["supports_hf_agent"] is False
            assert PATH not in (await http.get("/openapi.json")).json()["paths"]
            assert (await http.post(PATH, json=step())).status_code == 404


async def test_a_backend_that_turns_out_not_to_generate() -> None:
    """What only the loaded backend knows counts too: from then on metadata says no, and the route is a 404."""
    async with serving(reply=REPLY) as served:
        engine = served.composed.engine
        assert engine.info is not None
        capabilities = msgspec.structs.replace(engine.info.capabilities, generate=False)
        engine.info = msgspec.structs.replace(engine.info, capabilities=capabilities)
        assert (await served.http.get("/v1/metadata")).json()["supports_hf_agent"] is False
        answer = await served.post(PATH, step())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
