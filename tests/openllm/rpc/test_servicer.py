"""`openllm.v1.OpenLLM` over a real connection: what it answers is what HTTP answers."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tests.openllm.rpc.calling import calling, sampling, told
from tests.openllm.server.test_tool_calls import CALL, TOOL
from tests.tiny_adapters import blank_adapter

from openllm_core.options import StoreOptions
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb


def chat(text: str = "hello", **more: object) -> pb.ChatRequest:
    """A conversation of one message."""
    return pb.ChatRequest(messages=[pb.ChatMessage(role="user", content=text)], **more)


async def test_generate_answers_as_over_http() -> None:
    """Text, ids, reason, counts and configuration of one call are those of `/v1/generate`."""
    fields = {"max_new_tokens": 6, "n": 2, "logprobs": 1}
    async with calling() as called:
        answer = await called.stub.Generate(pb.GenerateRequest(prompt="a b c d", sampling=sampling(**fields)))
        body = {"prompt": "a b c d", "llm_config": fields, "detail": True}
        http = (await called.served.post("/v1/generate", body)).json()
    assert [choice.text for choice in answer.choices] == http["responses"] == ["a b c ", "a b c "]
    assert [response.string_value for response in answer.responses] == http["responses"]
    assert [choice.finish_reason for choice in answer.choices] == http["details"]["finish_reasons"]
    assert list(answer.choices[0].token_ids) == [*b"a b c "]
    assert MessageToDict(answer.configuration) == http["configuration"]
    drawn = http["details"]["logprobs"][1][2]
    entry = answer.choices[1].logprobs[2]
    assert (entry.token, entry.token_id, entry.logprob) == (drawn["token"], drawn["token_id"], drawn["logprob"])
    assert entry.top[0].token_id == drawn["top"][0]["token_id"] and entry.bytes == b"b"
    counts = {name: getattr(answer.usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert counts == http["details"]["usage"]


async def test_a_generate_stream_adds_up_to_the_one_shot_text() -> None:
    """The pieces of each choice make its text; the last message has the counts, and only it."""
    request = pb.GenerateRequest(prompt="grüße 日本", sampling=sampling(max_tokens=12, n=2), echo=True)
    async with calling() as called:
        whole = await called.stub.Generate(request)
        chunks = [chunk async for chunk in called.stub.GenerateStream(request)]
    for index in (0, 1):
        text = "".join(chunk.text for chunk in chunks if chunk.index == index)
        assert text == request.prompt + whole.choices[index].text
        reasons = [chunk.finish_reason for chunk in chunks if chunk.index == index and chunk.finish_reason]
        assert reasons == [whole.choices[index].finish_reason]
    assert [chunk.HasField("usage") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage == whole.usage


async def test_chat_answers_as_over_http() -> None:
    """The reply, its reason, its counts and its log-probabilities are those of `/v1/chat/completions`."""
    async with calling() as called:
        answer = await called.stub.Chat(chat(sampling=sampling(max_new_tokens=8, logprobs=2), model="echo"))
        body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        body |= {"logprobs": True, "top_logprobs": 2}
        http = (await called.served.post("/v1/chat/completions", body)).json()
    choice, expected = answer.choices[0], http["choices"][0]
    assert choice.message.role == "assistant" and choice.message.content == expected["message"]["content"]
    assert choice.finish_reason == expected["finish_reason"] == "length"
    assert answer.usage.total_tokens == http["usage"]["total_tokens"]
    told_of = expected["logprobs"]["content"]
    assert [entry.token for entry in choice.logprobs] == [entry["token"] for entry in told_of]
    assert [entry.bytes for entry in choice.logprobs] == [bytes(entry["bytes"]) for entry in told_of]
    assert [len(entry.top) for entry in choice.logprobs] == [2] * 8


async def test_a_chat_stream_adds_up_to_the_one_shot_reply() -> None:
    """The role first, then the text in pieces, the reason, and at last the counts; the model need not be named."""
    async with calling() as called:
        whole = await called.stub.Chat(chat(sampling=sampling(max_tokens=8)))
        chunks = [chunk async for chunk in called.stub.ChatStream(chat(sampling=sampling(max_tokens=8)))]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == ["length"]
    assert not chunks[-1].choices and chunks[-1].usage == whole.usage
    assert {(c.id, c.model) for c in chunks} == {(chunks[0].id, "echo")}


async def test_embed_metadata_and_models() -> None:
    """What `/v1/embeddings`, `/v1/metadata` and `/v1/models` say."""
    async with calling(embed=4) as called:
        vectors = await called.stub.Embed(pb.EmbedRequest(texts=["one", "two"]))
        http = (await called.served.post("/v1/embeddings", ["one", "two"])).json()
        assert [list(vector.values) for vector in vectors.embeddings] == http["embeddings"]
        assert vectors.num_tokens == http["num_tokens"]
        facts = await called.stub.Metadata(pb.MetadataRequest())
        http = (await called.served.http.get("/v1/metadata")).json()
        for name, value in http.items():
            found = getattr(facts, name)
            assert (list(found) if isinstance(value, list) else found) == value
        assert json.loads(facts.configuration)["generation_config"]
        models = (await called.stub.ListModels(pb.ListModelsRequest())).models
        http = (await called.served.http.get("/v1/models")).json()["data"]
        assert [(m.id, m.created, m.max_model_len) for m in models] == [
            (m["id"], m["created"], m["max_model_len"]) for m in http
        ]
        assert not models[0].HasField("root")


async def test_adapters(tmp_path: Path) -> None:
    """They are listed and chosen as over HTTP; the default is set with the admin key alone, and loading stays forbidden."""
    ids = [f"{blank_adapter(tmp_path / name, echo=name.upper())}:{name}" for name in ("one", "two")]
    options = {"api_key": ("k",), "admin_key": "root"}
    store, engine = StoreOptions(home=str(tmp_path)), {"adapter_id": tuple(ids)}
    async with calling(options=options, engine=engine, store=store) as called:
        user, admin = (("authorization", "Bearer k"),), (("authorization", "Bearer root"),)
        stub = called.stub
        listed = await stub.ListAdapters(pb.ListAdaptersRequest(), metadata=user)
        assert [(a.name, a.state, a.default) for a in listed.adapters] == [
            ("one", "ready", True),
            ("two", "ready", False),
        ]
        assert listed.max_adapters == 2 and listed.default == "one"
        assert listed.adapters[0].configuration.fields["peft_type"].string_value == "LORA"
        answer = await stub.Generate(pb.GenerateRequest(prompt="hi", adapter_name="two"), metadata=user)
        assert (answer.choices[0].text, answer.adapter_name) == ("TWO", "two")
        wanted = pb.AdapterRequest(adapter_name="two")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SetDefaultAdapter(wanted, metadata=user)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.SetDefaultAdapter(wanted, metadata=admin)).default == "two"
        assert not (await stub.SetDefaultAdapter(pb.AdapterRequest(adapter_name="base"), metadata=admin)).HasField(
            "default"
        )
        for method in (stub.LoadAdapter, stub.UnloadAdapter):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(wanted, metadata=admin)
            assert told(refused.value).code == "adapter_loading_forbidden"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Generate(pb.GenerateRequest(prompt="hi", adapter_name="three"), metadata=user)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_adapters_are_loaded_and_unloaded_where_allowed(tmp_path: Path) -> None:
    """With `allow_adapter_load`, an adapter goes by name, and its requests with it."""
    one = f"{blank_adapter(tmp_path / 'one', echo='ONE')}:one"
    store = StoreOptions(home=str(tmp_path))
    async with calling(options={"allow_adapter_load": True}, engine={"adapter_id": (one,)}, store=store) as called:
        left = await called.stub.UnloadAdapter(pb.AdapterRequest(adapter_name="one"))
        assert not left.adapters and not left.HasField("default")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.LoadAdapter(pb.AdapterRequest(adapter_name="one"))
        assert told(refused.value).code == "adapter_not_found"  # the store has none
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.LoadAdapter(pb.AdapterRequest())
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3.0}, "sampling.temperature", "decimal_above_max_value"),
        ({"temperature": float("nan")}, "sampling.temperature", "invalid_value"),
        ({"logit_bias": {5: float("inf")}}, "sampling.logit_bias.5", "invalid_value"),
        ({"n": 17}, "sampling.n", "integer_above_max_value"),
        ({"top_k": -2}, "sampling.top_k", "integer_below_min_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "sampling.stop", "array_above_max_length"),
        ({"num_beams": 4}, "sampling.num_beams", "unsupported_parameter"),
        ({"max_time": 2.0}, "sampling.max_time", "unsupported_parameter"),
    ],
)
async def test_a_bad_value_is_refused_by_its_path(fields: dict[str, object], param: str, code: str) -> None:
    """INVALID_ARGUMENT names the field as the message has it."""
    async with calling() as called:
        for call in (called.stub.Generate, called.stub.GenerateStream):
            running = call(pb.GenerateRequest(prompt="hi", sampling=sampling(**fields)))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (running if call is called.stub.Generate else running.read())
            error = told(refused.value)
            assert (refused.value.code(), error.param, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, param, code)
            assert param in error.message and not error.retry


async def test_fields_a_chat_has_not_are_refused_unless_they_ask_for_nothing() -> None:
    """The field is named, and the method that takes it; what older clients send along is taken where it is neutral."""
    async with calling() as called:
        await called.stub.Chat(
            chat(sampling=sampling(max_tokens=1, num_beams=1, use_cache=True, num_return_sequences=1))
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Chat(chat(sampling=sampling(suppress_tokens=[1])))
        error = told(refused.value)
        assert error.param == "sampling.suppress_tokens" and "Generate does" in error.message
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Chat(chat(sampling=sampling(num_beams=2)))
        assert told(refused.value).param == "sampling.num_beams"


async def test_family_fields_are_judged() -> None:
    """A field of the model's own family passes; an unknown one is refused by its path."""
    async with calling() as called:
        known = pb.GenerateRequest(prompt="hi", sampling=sampling(max_tokens=1))
        known.family_fields.update({"use_llama2_prompt": False})
        answer = await called.stub.Generate(known)
        assert answer.configuration.fields["use_llama2_prompt"].bool_value is False
        wrong = pb.GenerateRequest(prompt="hi")
        wrong.family_fields.update({"bogus": {"deep": 1}})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Generate(wrong)
        assert told(refused.value).param == "family_fields.bogus"


async def test_tool_calls_are_those_of_http() -> None:
    """Whole: one call with an id. Streamed: id and name once, then pieces of the arguments; a result is answered in words."""
    asked = chat("Weather?", sampling=sampling(max_tokens=900))
    asked.tools.add().update(TOOL)
    async with calling(call=CALL, reply="Sunny.") as called:
        choice = (await called.stub.Chat(asked)).choices[0]
        pieces = [
            call
            async for chunk in called.stub.ChatStream(asked)
            for piece in chunk.choices
            for call in piece.delta.tool_calls
        ]
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls" and call.type == "function" and call.id.startswith("call_")
        assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Paris"}
        first, *rest = pieces  # how many there are is for the reader's speed to say: what waits goes out as one
        assert (first.function.name, bool(first.id)) == ("weather", True)
        assert not any(piece.function.name or piece.id for piece in rest)
        assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
        asked.messages.add().CopyFrom(choice.message)
        asked.messages.add(role="tool", tool_call_id=call.id, content="sun")
        assert (await called.stub.Chat(asked)).choices[0].message.content == "Sunny."
