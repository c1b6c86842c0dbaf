"""Guides on the pt backend: what is asked for is spelled, mates notice nothing, and what cannot be is refused by field."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xgrammar
from tests.openllm.backends.torch.drive import GREEDY, finals_of, request, tokens_of
from tests.tiny_models import tiny_checkpoint
from tokenizers import Tokenizer

from openllm.backends import guides
from openllm.backends.base import BackendRequest, StepOutput, TokenGuide
from openllm.backends.torch.backend import TorchBackend
from openllm.backends.torch.guiding import Grammars, Matcher
from openllm.backends.torch.rows import Row
from openllm.backends.torch.sampling import BatchSampler
from openllm.backends.torch.schemas import unenforced
from openllm.tools import TOOL_FORMATS, ChatForm, calls_grammar
from openllm.tools.prompt import write_calls
from openllm_core.errors import InvalidRequest, UnsupportedFeature
from openllm_core.options import EngineOptions

PERSON = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
CALL = {
    "type": "structural_tag",
    "format": {
        "type": "sequence",
        "elements": [
            {"type": "const_string", "value": "<call>"},
            {"type": "json_schema", "json_schema": {"enum": ["yes", "no"]}},
            {"type": "const_string", "value": "</call>"},
        ],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="module")
def lender(folder: Path) -> Iterator[TorchBackend]:
    """One backend on a tiny random Llama for all tests of this file."""
    opened = TorchBackend.load(EngineOptions(model_path=str(folder), device="cpu"), lambda text, share: None)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, "LIMIT_S", 30.0)


def guided(name: str, kind: Any, value: str | list[str] = "", **changes: Any) -> BackendRequest:
    sampling: dict[str, Any] = {"max_tokens": 48, "temperature": 0.0, "guide": TokenGuide(kind, value, "the_field")}
    return request(name, [10, 20, 30], **(sampling | changes))


async def answers(backend: TorchBackend, *requests: BackendRequest) -> list[StepOutput]:
    """All outputs until each request has ended."""
    for one in requests:
        backend.submit(one)
    outputs: list[StepOutput] = []
    async for output in backend.steps():
        outputs.append(output)
        if len(finals_of(outputs)) == len(requests):
            return outputs
    raise AssertionError("the backend ended")


def texts_of(folder: Path, outputs: list[StepOutput]) -> dict[str, str]:
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {name: str(tokenizer.decode(ids)) for name, ids in tokens_of(outputs).items()}


async def test_guides_are_obeyed(lender: TorchBackend, folder: Path) -> None:
    """A random model spells what it is told to, greedily or drawn; it ends with an end token though none was asked for."""
    outputs = await answers(
        lender,
        guided("choice", "choice", ["yes", "né\"'\\"]),
        guided("regex", "regex", r"[ab]{2}-\d", temperature=1.0, top_p=0.9, seed=1),
        guided("grammar", "grammar", 'root ::= "x" ("y" | "z")', temperature=1.0, seed=2),
        guided("json", "json", json.dumps(PERSON), repetition_penalty=1.3),
        guided("tag", "structural_tag", json.dumps(CALL)),
    )
    found, ends = texts_of(folder, outputs), finals_of(outputs)
    assert found["choice"] in ("yes", "né\"'\\")
    assert re.fullmatch(r"[ab]{2}-\d", found["regex"])
    assert found["grammar"] in ("xy", "xz")
    assert re.fullmatch(r'<call>"(yes|no)"</call>', found["tag"])
    if ends["json"].finish_reason == "stop":  # a random model may fill its tokens with white space
        assert json.loads(found["json"])["a"] in (1, 2)
    for name in ("choice", "regex", "grammar", "tag"):
        assert ends[name].finish_reason == "stop" and ends[name].stop_token_id in lender.info.eos_token_ids


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_the_grammar_of_calls_is_what_the_reader_reads(name: str) -> None:
    """A call as the family writes it fits the grammar of a call that must come; one with a value of a wrong type does not."""
    form = ChatForm(tools=TOOL_FORMATS[name])
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    part = calls_grammar(form, [("weather", schema), ("clock", None)], several=True)
    compiler = xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo([bytes([n]) for n in range(256)] + [b"</s>"], stop_token_ids=[256])
    )
    compiled = compiler.compile_structural_tag({"type": "structural_tag", "format": part})

    def fits(call: str, arguments: dict[str, Any]) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled)
        text = write_calls(form.tools, [{"function": {"name": call, "arguments": arguments}}])
        return all(matcher.accept_token(byte) for byte in [*text.encode(), 256])

    assert fits("weather", {"city": "Köln <b>", "days": 3})
    assert not fits("weather", {"city": "Köln", "days": "many"})
    assert not fits("weather", {"city": "Köln"})
    assert fits("clock", {}) and not fits("nothing", {})


async def test_mates_of_a_guided_row_say_what_they_say_alone(lender: TorchBackend) -> None:
    """In one batch with guided rows, plain ones draw the very tokens that they draw alone."""
    plain = [request(f"plain{n}", [40 + n, 50], GREEDY, max_tokens=20, temperature=float(n), seed=n) for n in range(2)]
    alone = [tokens_of(await answers(lender, one))[one.request_id] for one in plain]
    mates = [guided(f"g{n}", "regex", "[ab]{30}") for n in range(2)]
    together = tokens_of(await answers(lender, mates[0], *plain, mates[1]))
    assert [together[one.request_id] for one in plain] == alone


async def test_a_text_cut_by_max_tokens_ends_with_length(lender: TorchBackend, folder: Path) -> None:
    """What came is a beginning of what was asked for."""
    outputs = await answers(lender, guided("cut", "regex", "(ab){20}", max_tokens=5))
    assert finals_of(outputs)["cut"].finish_reason == "length"
    assert ("ab" * 20).startswith(texts_of(folder, outputs)["cut"])


async def test_min_tokens_gives_way_to_a_guide_that_is_complete(lender: TorchBackend, folder: Path) -> None:
    """A text that nothing can follow ends, however few tokens it has; one that can go on goes on."""
    outputs = await answers(
        lender,
        guided("short", "choice", ["a"], min_tokens=20),
        guided("long", "regex", "a+", min_tokens=9, max_tokens=12),
    )
    assert texts_of(folder, outputs)["short"] == "a"
    assert finals_of(outputs)["short"].finish_reason == "stop"
    assert len(tokens_of(outputs)["long"]) >= 9


BAD = [
    ("json", '{"type": "no-such"}', "schema"),
    ("json", '{"type": "number", "multipleOf": 3}', "not supported by xgrammar"),
    ("regex", "([", "regex"),
    ("grammar", "root ::= (((", "grammar"),
]


@pytest.mark.parametrize(("kind", "value", "word"), BAD)
async def test_a_bad_guide_is_refused_before_it_is_submitted(
    lender: TorchBackend, kind: Any, value: str, word: str
) -> None:
    """The message begins with the field and says what is wrong; the compiler's source is not named."""
    with pytest.raises(InvalidRequest, match=word) as caught:
        await lender.check_guide(TokenGuide(kind, value, "the_field"))
    assert caught.value.param == "the_field" and caught.value.message.startswith("the_field: ")
    assert ".cc:" not in caught.value.message


async def test_one_that_slips_through_is_refused_alone(lender: TorchBackend) -> None:
    """No token is drawn for it, and a mate says what it says alone."""
    alone = tokens_of(await answers(lender, request("mate", [1, 2])))["mate"]
    outputs = await answers(lender, guided("bad", "regex", "(["), request("mate", [1, 2]))
    final = finals_of(outputs)["bad"]
    assert final.finish_reason == "error" and final.error is not None and final.error["param"] == "the_field"
    assert tokens_of(outputs) == {"bad": [], "mate": alone}


async def test_an_abort_reaches_a_request_whose_grammar_is_being_compiled(
    lender: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never run, and nothing of it stays behind."""
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    grammars = lender._grammars
    assert grammars is not None
    matcher = grammars.matcher

    def slowed(guide: TokenGuide, stops: tuple[int, ...]) -> Matcher:
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)
        return matcher(guide, stops)

    monkeypatch.setattr(grammars, "matcher", slowed)
    lender.submit(guided("gone", "choice", ["a"]))
    await asyncio.sleep(0)
    lender.abort("gone")
    go_on.set()
    outputs = await answers(lender, guided("kept", "choice", ["b"]), request("plain", [1, 2]))
    assert set(tokens_of(outputs)) == {"kept", "plain"}
    assert not lender._preparing and not lender._aborted


async def test_a_model_without_a_known_tokenizer_says_so(tmp_path: Path) -> None:
    """The refusal names the field and what the files lack."""
    grammars = Grammars(tmp_path, 100, (2,))
    with pytest.raises(UnsupportedFeature, match="the_field: answers of this model cannot be guided") as caught:
        grammars.compile(TokenGuide("choice", ["a"], "the_field"))
    assert caught.value.param == "the_field"


async def test_a_missing_compiler_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pip line that mends it."""
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(UnsupportedFeature, match="xgrammar") as caught:
        Grammars(folder, 100, (2,)).compile(TokenGuide("choice", ["a"], "the_field"))
    assert caught.value.hint == 'pip install "openllm[guides]"'


def test_without_an_end_token_a_complete_text_ends_by_itself(folder: Path) -> None:
    """Some checkpoints name no end token: the text ends where nothing can follow."""
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = int(tokenizer.get_vocab_size())
    matcher = Grammars(folder, size, ()).matcher(TokenGuide("choice", ["ab"]), ())
    row = Row(request("a", [1], max_tokens=9), 9, matcher)
    sampler = BatchSampler([row], size, torch.device("cpu"))
    drawn: list[int] = []
    for _ in range(9):
        (token,) = sampler.draw(torch.zeros(1, size)).token_ids
        drawn.append(token)
        delta = row.push(token, None)
        if delta.finish_reason:
            break
    assert delta.finish_reason == "stop" and tokenizer.decode(drawn) == "ab"


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (PERSON, None),
        ({"properties": {"multipleOf": {"type": "string"}}, "enum": [{"not": 1}]}, None),  # names and data, no keywords
        ({"type": "string", "format": "date", "description": "if"}, None),
        ({"type": "array", "items": {"type": "integer", "multipleOf": 2}}, "multipleOf"),
        ({"$defs": {"x": {"not": {"type": "null"}}}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "zip-code"}, "format 'zip-code'"),
        ({"type": "string", "pattern": "a+", "maxLength": 3}, "minLength or maxLength beside pattern or format"),
        ({"patternProperties": {"a": {}}, "properties": {}}, "patternProperties beside other properties"),
        ({"propertyNames": {"pattern": "a"}, "properties": {}}, "propertyNames beside properties"),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, "allOf of several schemas"),
    ],
)
def test_keywords_that_would_be_passed_over_are_found(schema: dict[str, Any], found: str | None) -> None:
    """Wherever a schema stands, and nowhere else."""
    assert unenforced(schema) == found
