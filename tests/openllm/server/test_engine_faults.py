"""What a client is told when the engine fails its request in the middle of a step: status, code, and nothing of the inside."""

from __future__ import annotations

from typing import Any

import pytest
from tests.openllm.server.serving import events, over_socket, serving, text_body

FAULTS = [
    ({"raise_at": 3}, 500, "internal_error"),
    ({"nan_at": 3}, 500, "non_finite_logits"),
    ({"memory_at": 3}, 503, "engine_out_of_memory"),
]


@pytest.mark.parametrize(("fault", "status", "code"), FAULTS)
async def test_one_shot_and_streamed(fault: dict[str, Any], status: int, code: str) -> None:
    """One shot: the status and code, with Retry-After where coming again helps. Streamed: the tokens so far, then an error
    event and no [DONE]. Either way the scripted exception's own words stay in the log, and the next request is served."""
    async with serving(reply="abcdef", when="bad", **fault) as served, over_socket(served) as http:
        answer = await http.post("/v1/completions", json=text_body("bad"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert ("retry-after" in answer.headers) == (status == 503)
        streamed = await http.post("/v1/completions", json=text_body("bad", stream=True))
        *parts, last = events(streamed.text)
        assert "".join(part["choices"][0]["text"] for part in parts) == "ab"
        assert last["error"]["code"] == code
        assert "scripted" not in answer.text + streamed.text
        fine = await http.post("/v1/completions", json=text_body("good"))
        assert fine.json()["choices"][0]["text"] == "abcdef"
