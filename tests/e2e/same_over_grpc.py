"""What a server with both ports has to show: HTTP and gRPC ask one engine, and answer alike."""

from __future__ import annotations

import openllm_client

from .conftest import ServerProcess

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def check_both_ports(server: ServerProcess) -> None:
    """Greedy answers of both are the same text, streamed or not, and gRPC's requests count in the server's metrics."""
    with openllm_client.HTTPClient(server.url) as http, openllm_client.GrpcClient(server.grpc) as grpc:
        config = {"max_new_tokens": 12, "temperature": 0.0}
        model = http.model_id
        before = server.metric("openllm_generation_tokens_total")
        streamed = "".join(piece.text for piece in grpc.generate_stream("One, two, three,", config))
        assert server.metric("openllm_generation_tokens_total") == before + 12
        asked = [client.chat(QUESTION, max_tokens=12, temperature=0) for client in (http, grpc)]
        assert streamed == http.generate("One, two, three,", config).responses[0]
        assert grpc.model_id == model
    assert asked[0].choices[0].message.content == asked[1].choices[0].message.content
    assert "Paris" in (asked[1].choices[0].message.content or "")
