"""BentoML's protocol: what gRPC clients of OpenLLM 0.3.5 send and need."""

from __future__ import annotations

import json
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.wrappers_pb2 import StringValue
from tests.openllm.rpc.calling import Called, calling, told

from openllm.rpc.messages import value
from openllm.rpc.proto import bentoml_v1_pb2 as pb
from openllm.rpc.proto import bentoml_v1_pb2_grpc


async def call(called: Called, name: str, **content: object) -> object:
    """The JSON that one call is answered with."""
    stub = bentoml_v1_pb2_grpc.BentoServiceStub(called.channel)
    answer = await stub.Call(pb.Request(api_name=name, **content))
    assert answer.WhichOneof("content") == "json"
    return MessageToDict(answer.json)


async def test_the_three_calls_answer_as_their_routes() -> None:
    """`generate_v1`, `metadata_v1` and `embeddings_v1`: JSON or text in, the JSON of the route out."""
    body = {
        "prompt": "hello",
        "llm_config": {"max_new_tokens": 4, "top_k": 50, "temperature": 1.0},
        "adapter_name": None,
    }
    async with calling(embed=4) as called:
        assert (
            await call(called, "generate_v1", json=value(body))
            == (await called.served.post("/v1/generate", body)).json()
        )
        http = (await called.served.http.post("/v1/metadata")).json()
        assert await call(called, "metadata_v1", text=StringValue(value="")) == http
        assert json.loads(http["configuration"])
        http = (await called.served.post("/v1/embeddings", ["one", "two"])).json()
        found = await call(called, "embeddings_v1", json=value(["one", "two"]))
        assert found == http
        assert await call(called, "embeddings_v1", json=value("one")) == {
            "embeddings": http["embeddings"][:1],
            "num_tokens": 3,
        }


async def test_the_service_describes_its_calls() -> None:
    """Names and descriptors as 0.3.5's server announced them; its client reads `args` of each JSON descriptor."""
    async with calling() as called:
        stub = bentoml_v1_pb2_grpc.BentoServiceStub(called.channel)
        facts = await stub.ServiceMetadata(pb.ServiceMetadataRequest())
        docs = (await called.served.http.get("/docs.json")).json()
    assert facts.name == docs["info"]["title"]

    def spec(side: Any) -> dict[str, Any]:
        return {"id": side.descriptor_id, **MessageToDict(side.attributes)}

    apis = {api.name: (spec(api.input), spec(api.output)) for api in facts.apis}
    described = {
        path["post"]["x-bentoml-name"]: (
            path["post"]["requestBody"]["x-bentoml-io-descriptor"],
            path["post"]["responses"]["200"]["x-bentoml-io-descriptor"],
        )
        for path in docs["paths"].values()
        if "post" in path
    }
    assert apis == described


@pytest.mark.parametrize(
    ("request_", "status", "param"),
    [
        (pb.Request(api_name="generate_v1", text=StringValue(value="hi")), "INVALID_ARGUMENT", "content"),
        (pb.Request(api_name="generate_v1"), "INVALID_ARGUMENT", "content"),
        (pb.Request(api_name="metadata_v1", json=value({})), "INVALID_ARGUMENT", "content"),
        (pb.Request(api_name="generate_v1", json=value([])), "INVALID_ARGUMENT", ""),
        (pb.Request(api_name="generate_v1", json=value({"prompt": 5})), "INVALID_ARGUMENT", "prompt"),
        (
            pb.Request(api_name="generate_v1", json=value({"prompt": "a", "llm_config": {"top_k": -2}})),
            "INVALID_ARGUMENT",
            "llm_config.top_k",
        ),
        (pb.Request(api_name="generate_v1", json=Value(number_value=float("nan"))), "INVALID_ARGUMENT", ""),
        (pb.Request(api_name="embeddings_v1", json=value([1])), "INVALID_ARGUMENT", "input[0]"),
        (pb.Request(api_name="generate_stream_v1", json=value({"prompt": "a"})), "UNIMPLEMENTED", "api_name"),
        (pb.Request(api_name="nothing", json=value({})), "UNIMPLEMENTED", "api_name"),
    ],
)
async def test_what_does_not_fit_is_refused(request_: pb.Request, status: str, param: str) -> None:
    """A wrong kind of content, a wrong value by its path, and a call that is not there or has no single answer."""
    async with calling(embed=4) as called:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await bentoml_v1_pb2_grpc.BentoServiceStub(called.channel).Call(request_)
        assert refused.value.code().name == status
        assert told(refused.value).param == param
