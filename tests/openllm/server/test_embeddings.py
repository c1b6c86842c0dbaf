"""POST /v1/embeddings in both shapes: what is answered, what is refused and by which name."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
from array import array
from typing import Any

import pytest
from tests.openllm.engine.test_embedding import engine_of
from tests.openllm.server.serving import serving

from openllm.engine.embedder import Second
from openllm.engine.embedding import shortened
from openllm.service import embeddings as module
from openllm_core.errors import ModelNotFound

PATH = "/v1/embeddings"


def request(**fields: Any) -> dict[str, Any]:
    """An OpenAI request."""
    return {"model": "echo", "input": ["one", "two", "three"]} | fields


async def test_the_body_decides_the_shape() -> None:
    """An array of texts, or one text, is answered as OpenLLM 0.3.5 meant it; an object as OpenAI does."""
    async with serving(embed=4) as served:
        ours = (await served.post(PATH, ["one", "two", "three"])).json()
        bare = (await served.post(PATH, "one")).json()
        theirs = (await served.post(PATH, request())).json()
        assert set(ours) == {"embeddings", "num_tokens"} and ours["num_tokens"] == 11
        assert bare == {"embeddings": ours["embeddings"][:1], "num_tokens": 3}
        assert [item["embedding"] for item in theirs["data"]] == ours["embeddings"]
        assert [(item["index"], item["object"]) for item in theirs["data"]] == [(i, "embedding") for i in range(3)]
        assert (theirs["object"], theirs["model"]) == ("list", "echo")
        assert theirs["usage"] == {"prompt_tokens": 11, "total_tokens": 11}


async def test_base64_is_little_endian_float32_of_the_same_vectors() -> None:
    """What OpenAI's own client asks for by default."""
    async with serving(embed=4) as served:
        plain = (await served.post(PATH, request(encoding_format="float"))).json()
        coded = (await served.post(PATH, request(encoding_format="base64"))).json()
        for number, text in zip(plain["data"], coded["data"], strict=True):
            assert list(struct.unpack("<4f", base64.b64decode(text["embedding"]))) == number["embedding"]


async def test_dimensions_cut_and_normalise() -> None:
    """The leading numbers, of length one again; more than there are is refused."""
    async with serving(embed=4) as served:
        whole = (await served.post(PATH, request(input="one"))).json()["data"][0]["embedding"]
        cut = (await served.post(PATH, request(input="one", dimensions=2))).json()["data"][0]["embedding"]
        length = (whole[0] ** 2 + whole[1] ** 2) ** 0.5
        assert cut == pytest.approx([whole[0] / length, whole[1] / length], abs=1e-6)
        refused = await served.post(PATH, request(dimensions=5))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dimensions")


async def test_others_are_answered_while_vectors_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers by the million are not worked on in the loop that serves."""
    begun, others = threading.Event(), threading.Event()

    def slowly(vector: array[float], dimensions: int) -> array[float]:
        begun.set()
        assert others.wait(10)
        return shortened(vector, dimensions)

    monkeypatch.setattr(module, "shortened", slowly)
    async with serving(embed=4) as served:
        asked = asyncio.create_task(served.post(PATH, request(dimensions=2)))
        assert await asyncio.to_thread(begun.wait, 10)
        assert (await served.http.get("/readyz")).status_code == 200
        others.set()
        assert [len(item["embedding"]) for item in (await asked).json()["data"]] == [2, 2, 2]


async def test_too_many_dimensions_are_refused_before_anything_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an answer has shown how long the vectors are."""
    async with serving(embed=4) as served:
        assert (await served.post(PATH, ["a"])).status_code == 200
        embedder = served.composed.service._embeddings._embedder

        async def computed(inputs: Any) -> Any:
            raise AssertionError("it was computed")

        monkeypatch.setattr(embedder, "embed", computed)
        refused = (await served.post(PATH, request(dimensions=5))).json()["error"]
        assert (refused["code"], refused["param"]) == ("integer_above_max_value", "dimensions")


async def test_token_ids_are_an_input_too() -> None:
    """One array of ids, or several, as OpenAI has it."""
    async with serving(embed=4) as served:
        texts = (await served.post(PATH, request(input=["ab", "c"]))).json()["data"]
        several = (await served.post(PATH, request(input=[[97, 98], [99]]))).json()["data"]
        one = (await served.post(PATH, request(input=[97, 98]))).json()["data"]
        assert (several, one) == (texts, texts[:1])


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ([], 400, "empty_array", "input"),
        (["a"] * 2049, 400, "array_above_max_length", "input"),
        (["a", ""], 400, "invalid_value", "input[1]"),
        (["a", 5], 400, "invalid_type", "input[1]"),
        (["x" * 5000], 400, "context_length_exceeded", "input[0]"),
        (5, 400, "invalid_type", "input"),
        (request(input=[]), 400, "empty_array", "input"),
        (request(input=""), 400, "invalid_value", "input[0]"),
        (request(input=[[]]), 400, "invalid_value", "input[0]"),
        (request(input=[["a"]]), 400, None, None),
        (request(input=["a", 5]), 400, None, None),
        (request(model="other"), 404, "model_not_found", "model"),
        (request(encoding_format="hex"), 400, "invalid_value", "encoding_format"),
        (request(dimensions=0), 400, "integer_below_min_value", "dimensions"),
        ({"input": "a"}, 400, "missing_required_parameter", "model"),
        ({"model": "echo"}, 400, "missing_required_parameter", "input"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refusal_names_the_field(body: Any, status: int, code: str | None, param: str | None) -> None:
    """Nothing is embedded, and the next request works."""
    async with serving(embed=4) as served:
        refused = await served.post(PATH, body)
        error = refused.json()["error"]
        assert refused.status_code == status, error
        assert code is None or (error["code"], error["param"]) == (code, param)
        assert (await served.post(PATH, ["a"])).status_code == 200


async def test_what_is_not_known_is_named_in_a_header() -> None:
    """As on every OpenAI route; `strict` refuses it."""
    async with serving(embed=4) as served:
        answer = await served.post(PATH, request(colour="red"))
        assert (answer.status_code, answer.headers["x-openllm-ignored"]) == (200, "colour")
    async with serving(embed=4, options={"strict": True}) as served:
        assert (await served.post(PATH, request(colour="red"))).status_code == 400


async def test_the_limit_of_inputs_is_2048() -> None:
    """As many are answered, each in its place."""
    async with serving(embed=2) as served:
        found = (await served.post(PATH, [f"text {i}" for i in range(2048)])).json()
        assert len(found["embeddings"]) == 2048
        assert found["embeddings"][7] == (await served.post(PATH, ["text 7"])).json()["embeddings"][0]


async def test_a_failing_second_engine_degrades_this_route_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with a reason and Retry-After here, answers elsewhere; the metadata tells the truth before and after."""
    async with serving() as served:
        embedder = served.composed.service._embeddings._embedder
        assert embedder.name == "sentence-transformers/all-MiniLM-L6-v2"

        def absent() -> Any:
            raise ModelNotFound("not here")

        monkeypatch.setattr(embedder, "second", Second(name="small", make=absent))
        assert (await served.http.get("/v1/metadata")).json()["supports_embeddings"] is True
        refused = await served.post(PATH, ["a"])
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "small" in refused.json()["error"]["message"] and int(refused.headers["retry-after"]) > 1
        assert (await served.http.get("/v1/metadata")).json()["supports_embeddings"] is False
        assert (await served.http.get("/readyz")).status_code == 200
        assert (await served.post("/v1/generate", {"prompt": "still"})).json()["responses"] == ["still"]


async def test_offline_and_absent_the_metadata_says_that_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Before anybody asks for a vector; asked all the same, the route says why not."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with serving() as served:
        assert (await served.http.get("/v1/metadata")).json()["supports_embeddings"] is False
        refused = await served.post(PATH, ["a"])
        assert refused.status_code == 503 and str(tmp_path) not in refused.text
        assert "not on this machine" in refused.json()["error"]["message"]


async def test_a_request_has_a_deadline() -> None:
    """A second engine that takes too long is 504, and goes on starting for the next request."""
    async with serving(embed=4, step_s=3, options={"server_timeout": 1}) as served:
        refused = await served.post(PATH, ["a"])
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_the_embedding_models_own_name_is_accepted() -> None:
    """Where another model makes the vectors, its name may stand in `model`, and stands in the answer."""
    async with serving() as served:
        embedder = served.composed.service._embeddings._embedder
        embedder.second = Second(name="org/small", make=lambda: engine_of(embed=4))
        for name in ("echo", "org/small"):
            answer = await served.post(PATH, request(model=name))
            assert (answer.status_code, answer.json()["model"]) == (200, "org/small")


async def test_a_draining_server_finishes_the_embeddings_of_a_second_engine() -> None:
    """A request under way there is answered within the grace, as streams are; a new one is refused."""
    async with serving() as served:
        embedder = served.composed.service._embeddings._embedder
        embedder.second = Second(name="small", make=lambda: engine_of(embed=4, step_s=0.2))
        assert (await served.post(PATH, ["a"])).status_code == 200
        asked = asyncio.create_task(served.post(PATH, ["a"]))
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(served.composed.service.drain(10))
        await asyncio.sleep(0.01)
        assert (await served.post(PATH, ["a"])).status_code == 503
        await draining
        assert (await asyncio.wait_for(asked, 1)).status_code == 200


async def test_both_shapes_are_described() -> None:
    """/openapi.json has the request and the answer of both."""
    async with serving(embed=4) as served:
        document = (await served.http.get("/openapi.json")).json()
        operation = document["paths"][PATH]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
        assert {"$ref": "#/components/schemas/EmbeddingRequest"} in body
        assert {"type": "array", "items": {"type": "string"}} in body
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
        assert {part["$ref"].rpartition("/")[2] for part in answer} == {"EmbeddingsOutput", "EmbeddingList"}
