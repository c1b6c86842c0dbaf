"""Bodies with any field at and past its limits, of the wrong type, twice, or no JSON at all: refused in one shape, or right.

`tools/bad_inputs.py` sends two hundred thousand of them and writes the figure; here a sample, another one each day.
"""

from __future__ import annotations

import datetime
import itertools
import os
import random
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
from tests.enumerate.bad_inputs import run
from tests.enumerate.cases import Case, Field, Route, case_of, pairs, routes_of, singles
from tests.enumerate.reading import Reading
from tests.enumerate.site import Answered, site
from tests.enumerate.values import Value
from tests.enumerate.verdict import fault_of

MOST_BAD = int(os.environ.get("OPENLLM_TEST_BAD_INPUTS") or 9_000)
SEED = int(datetime.date.today().strftime("%Y%m%d"))


@pytest.mark.timeout(120 + MOST_BAD // 50)
async def test_bad_inputs(tmp_path: Path):
    """No server error, nothing accepted that the schemas forbid, nothing refused that they allow but for the listed reasons,
    one shape of error, the right field named; and the server answers the next request."""
    print(f"seed {SEED}")
    async with site(tmp_path) as made:
        reading = Reading(made.document)
        routes = routes_of(made.document, reading)
        assert {route.path for route in routes} == {p for p, i in made.document["paths"].items() if bodies_of(i)}
        every = [case for route in routes for case in singles(route)]
        random.Random(SEED).shuffle(every)
        cases = itertools.chain(every[: MOST_BAD // 2], pairs(routes, SEED))
        tally = await run(made, reading, cases, most_bad=MOST_BAD)
        assert tally.faults == []
        assert tally.bad == MOST_BAD and tally.by_status[200] and tally.by_status[400], tally
        assert (await made.ask("GET", "/readyz")).status == 200


def bodies_of(item: dict[str, Any]) -> bool:
    """Whether an operation of a path takes a body."""
    return any("requestBody" in operation for operation in item.values())


# -- the judge itself -------------------------------------------------------------------------------------------------

ROUTE = Route("POST", "/v1/x", {"type": "object", "properties": {"top_k": {"type": "integer"}}}, {"top_k": 1}, ())
HEADERS = {"content-type": "application/json", "x-request-id": "r"}
SAID = {
    "message": "top_k must be >= 1.",
    "type": "invalid_request_error",
    "param": "top_k",
    "code": "integer_below_min_value",
}


def case(**changes: Any) -> Case:
    """A body whose field `top_k` was changed."""
    return attrs.evolve(Case(ROUTE, "top_k = 0", '{"top_k": 0}', (("top_k",),)), **changes)


def refusal(status: int = 400, headers: dict[str, str] = HEADERS, **changes: Any) -> Answered:
    """A sound refusal, or one with something changed."""

    return Answered(status, headers, orjson.dumps({"error": SAID | changes}))


FAULTS = {
    "500": ("bad", refusal(500)),
    "wrongly accepted": ("bad", Answered(200, HEADERS, b"{}")),
    "wrongly refused": (None, refusal()),
    "headers": ("bad", refusal(headers={"content-type": "text/html"})),
    "a refusal of": ("bad", refusal(message="m" * 9000)),
    "shape": ("bad", refusal(more=1)),
    "types": ("bad", refusal(code=400)),
    "param:": ("bad", refusal(param=["top_k"])),
    "one line": ("bad", refusal(message="a\nb")),
    "inside": ("bad", refusal(message="failed in /home/me/x.py")),
    "repeats": ("bad", refusal(message="Ω" * 300)),
    "none of": ("bad", refusal(param="temperature")),
    "within the stream": (None, Answered(200, {"content-type": "text/event-stream"}, b'data: {"error":{}}\n\n')),
    "without its end": (None, Answered(200, {"content-type": "text/event-stream"}, b"data: {}\n\n")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_judge_finds_what_is_wrong(fault: str):
    """Each way in which an answer can be wrong is seen; a sound refusal passes."""
    because, answer = FAULTS[fault]
    assert fault in str(fault_of(case(), because, answer))
    assert fault_of(case(), "bad", refusal()) is None


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("1", False),
        ("1.0", True),
        ("true", True),
        ("null", True),
        ("9223372036854775808", False),
        ("18446744073709551616", True),
        ("NaN", True),
        ("1e999", True),
        ('"\\ud800"', True),
        ("", True),
    ],
)
def test_the_reading_is_strict(text: str, bad: bool):
    """What is an integer is decided by how it is written; what is no JSON has no value at all."""
    document = {"components": {"schemas": SCHEMAS}}
    field = Field(("top_k",), ROUTE.schema["properties"]["top_k"], ())
    made = case_of(ROUTE, [(field, Value(text, text))])
    assert (Reading(document).refuses(ROUTE.schema, made.body) is not None) == bad


def test_a_key_twice_and_a_key_too_few():
    """A field may be left out of a body, or stand in it two times."""
    field = Field(("top_k",), ROUTE.schema["properties"]["top_k"], ())
    assert case_of(ROUTE, [(field, Value("missing", None))]).body == "{}"
    assert case_of(ROUTE, [(field, Value("twice", "0", twice=True))]).body == '{"top_k": 0, "top_k": 0}'


SCHEMAS: dict[str, Any] = {
    name: {"properties": {"messages": {}}}
    for name in (
        "ChatCompletionRequest",
        "CompletionRequest",
        "ChatMessage",
        "FunctionSpec",
        "GenerateRequest",
        "AgentRequest",
    )
}
