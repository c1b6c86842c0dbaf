"""What the vllm backend does beyond the conformance suite: guides, engine arguments, a sequence that fails alone.

All of it runs on one engine; tests that make another are in `test_lifetime`, which says why.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.openllm.backends.vllm.engine.borrowed import Borrowed, engine
from tokenizers import Tokenizer

from openllm.backends import checkpoint as checkpoints
from openllm.backends import guides
from openllm.backends.base import BackendRequest, TokenGuide, TokenSampling
from openllm.backends.vllm import guards, plan
from openllm.backends.vllm.arguments import engine_arguments, extra_arguments
from openllm.backends.vllm.backend import VllmBackend
from openllm.engine.request import new_request_id
from openllm.testing import GREEDY, Drive, Outcome
from openllm_core.errors import EngineUnavailable, InvalidRequest, InvalidSetting
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

pytestmark = pytest.mark.timeout(600)
MANY_PATTERNS = json.dumps(
    {"type": "object", "properties": {f"k{i}": {"type": "string", "pattern": "^[a-z]{1,200}$"} for i in range(300)}}
)
PROMPT = [72, 101, 108]


@pytest.fixture(scope="module")
def lender(folder: Path) -> Iterator[VllmBackend]:
    """One engine for all tests of this file."""
    backend = engine(folder)
    yield backend
    asyncio.run(backend.aclose())


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use this machine too: what compiles in a second alone may need more."""
    monkeypatch.setattr(guides, "LIMIT_S", 30.0)


def run(lender: VllmBackend, *samplings: TokenSampling, prompt: list[int] = PROMPT) -> list[Outcome]:
    """Run one request for each sampling, together."""

    async def all_of_them() -> list[Outcome]:
        loan = Borrowed(lender)
        drive = Drive(loan, 60)
        outcomes = [drive.submit(prompt, sampling)[1] for sampling in samplings]
        await drive.finish(*outcomes)
        await loan.aclose()
        await drive.ended()
        return outcomes

    return asyncio.run(all_of_them())


def guided(kind: Any, value: str | list[str] = "", **changes: Any) -> TokenSampling:
    """Greedy, with a guide."""
    return TokenSampling(
        **{"max_tokens": 48, "temperature": 0.0, "guide": TokenGuide(kind, value, "the_field")} | changes
    )


def text_of(folder: Path, outcome: Outcome) -> str:
    """The text of an outcome, its end token left out."""
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return str(tokenizer.decode(outcome.token_ids, skip_special_tokens=True))


def test_guides_are_obeyed(lender: VllmBackend, folder: Path) -> None:
    """A random model spells what it is told to; it ends with an end token though none was asked for."""
    schema = json.dumps({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]})
    choice, regex, grammar, fits = run(
        lender,
        guided("choice", ["yes", "no"]),
        guided("regex", r"[ab]{2}-\d"),
        guided("grammar", 'root ::= "x" ("y" | "z")'),
        guided("json", schema),
    )
    assert text_of(folder, choice) in ("yes", "no")
    assert re.fullmatch(r"[ab]{2}-\d", text_of(folder, regex))
    assert text_of(folder, grammar) in ("xy", "xz")
    if fits.finish_reason == "stop":  # a random model may fill its tokens with white space
        assert json.loads(text_of(folder, fits))["a"] in (1, 2)
    assert {choice.finish_reason, regex.finish_reason, grammar.finish_reason} == {"stop"}


@pytest.mark.parametrize(
    "guide",
    [("json", '{"type": "no-such"}'), ("regex", "(["), ("grammar", "root ::= ((("), ("json", '{"$ref": "#/nowhere"}')],
)
def test_what_cannot_be_compiled_is_refused_alone(lender: VllmBackend, guide: tuple[Any, str]) -> None:
    """The field is named, no token is drawn, and a mate says what it says alone."""
    (alone,) = run(lender, GREEDY)
    bad, mate = run(lender, guided(*guide), GREEDY)
    assert bad.finish_reason == "error" and bad.token_ids == []
    assert bad.deltas[-1].error is not None
    assert bad.deltas[-1].error["class"] == "InvalidRequest"
    assert bad.deltas[-1].error["param"] == "the_field"
    assert mate.token_ids == alone.token_ids


REFUSED = [
    ("json", '{"type": "no-such"}', "schema"),
    ("json", '{"type": "number", "multipleOf": 3}', "not supported by xgrammar"),
    ("json", MANY_PATTERNS, "more than"),  # well formed, and more than the compiler takes
    ("regex", "([", "regex"),
    ("grammar", "root ::= (((", "Expect"),
    ("grammar", "root ::= nope", "nope"),
    ("choice", [], "choice"),
]


@pytest.mark.parametrize(("kind", "value", "word"), REFUSED)
def test_a_bad_guide_is_refused_before_it_is_submitted(lender: VllmBackend, kind: Any, value: Any, word: str) -> None:
    """The field and the reason are named, without the compiler's source files."""
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(lender.check_guide(TokenGuide(kind, value, "the_field")))
    assert caught.value.param == "the_field"
    assert caught.value.message.startswith("the_field: ") and word in caught.value.message
    assert ".cc" not in caught.value.message and "\n" not in caught.value.message


def test_a_good_guide_is_compiled_by_its_check(lender: VllmBackend) -> None:
    """It takes what any guide may bring."""
    for kind, value in (("json_object", ""), ("choice", ["a"]), ("regex", "a+"), ("json", '{"type": "integer"}')):
        asyncio.run(lender.check_guide(TokenGuide(kind, value)))


def test_a_slow_guide_delays_no_good_one(lender: VllmBackend, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up in time; while it is still being compiled others pass their check, and their requests run."""
    slow = TokenGuide("json", '{"type": "string", "maxLength": 300}', "the_field")
    go_on = threading.Event()
    compile_guide = lender._guides._compile

    def slowed(guide: TokenGuide) -> None:
        if guide == slow:
            go_on.wait(60)
        compile_guide(guide)

    async def test() -> None:
        await lender.check_guide(TokenGuide("choice", ["a"]))
        monkeypatch.setattr(guides, "LIMIT_S", 0.05)
        with pytest.raises(InvalidRequest, match="longer than") as caught:
            await lender.check_guide(slow)
        assert caught.value.param == "the_field"
        monkeypatch.setattr(guides, "LIMIT_S", 30.0)
        await lender.check_guide(TokenGuide("choice", ["yes", "never"]))
        (outcome,) = await asyncio.to_thread(run, lender, guided("choice", ["yes", "never"]))
        assert text_of(folder, outcome) in ("yes", "never")
        go_on.set()
        await lender.check_guide(slow)  # asked again, it passes once it is compiled

    monkeypatch.setattr(lender._guides, "_compile", slowed)
    asyncio.run(test())


def test_a_core_that_stands_still_is_unhealthy(lender: VllmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's loop goes on beside a step that never ends, or an adapter that never loads; the health check tells it, and only
    then."""
    run(lender, GREEDY)
    go_on = threading.Event()
    step = lender._core._engine.step_fn

    def stuck() -> Any:
        go_on.wait(30)
        return step()

    async def test() -> None:
        monkeypatch.setattr(lender._core._engine, "step_fn", stuck)
        loan = Borrowed(lender)
        drive = Drive(loan, 60)
        outcome = drive.submit(PROMPT, GREEDY)[1]
        await lender.check_health()
        while lender._core.busy_s < 0.1:
            await asyncio.sleep(0.01)
        await lender.check_health()
        monkeypatch.setattr(lender, "stall_s", 0.1)
        with pytest.raises(EngineUnavailable, match="stood still"):
            await lender.check_health()
        go_on.set()
        await drive.finish(outcome)
        await lender.check_health()
        go_on.clear()
        loading = asyncio.create_task(asyncio.to_thread(lender._core.call, lambda engine: go_on.wait(30)))
        while lender._core.busy_s < 0.1:
            await asyncio.sleep(0.01)
        with pytest.raises(EngineUnavailable, match="stood still"):
            await lender.check_health()
        go_on.set()
        await loading
        await lender.check_health()
        await loan.aclose()
        await drive.ended()

    asyncio.run(test())


def test_a_prompt_that_was_read_is_not_read_again(lender: VllmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefix caching is on: sent again, all whole blocks of a long prompt come from the cache. Sent by another key, none do: by the
    time it takes nobody finds out what others have asked."""
    core = lender._core._engine
    hits: list[int] = []
    step = core.step_fn

    def counted() -> Any:
        outputs, ran = step()
        stats = outputs[0].scheduler_stats if outputs and 0 in outputs else None
        if stats is not None:
            hits.append(stats.prefix_cache_stats.hits)
        return outputs, ran

    monkeypatch.setattr(core, "step_fn", counted)
    block = core.vllm_config.cache_config.block_size
    prompt = [3 + number % 90 for number in range(block + 20)]
    found: list[int] = []
    for salt in (None, None, "one key", "another", "one key"):
        hits.clear()
        said(lender, BackendRequest(new_request_id(), prompt, GREEDY, cache_salt=salt))
        found.append(sum(hits))
    assert found == [0, block, 0, 0, block]


def test_a_prompt_read_in_pieces_is_counted(lender: VllmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the prefix cache was asked for and had of a prompt is told, also when it takes several steps to read, most of which
    bring nobody a token."""
    monkeypatch.setattr(lender._core._engine.scheduler, "max_num_scheduled_tokens", 32)
    block = lender._core._engine.vllm_config.cache_config.block_size
    prompt = [5 + number % 80 for number in range(block + 70)]
    told: list[tuple[int, int]] = []
    for _ in range(3):
        stats = lender._counts.as_stats()
        told.append((stats.prefix_cache_queries, stats.prefix_cache_hits))
        said(lender, BackendRequest(new_request_id(), prompt, GREEDY))
    (none, none_hit), (first, first_hits), (second, second_hits) = told
    assert (first - none, first_hits - none_hit) == (len(prompt), 0)
    assert (second - first, second_hits - first_hits) == (len(prompt), block)


def test_a_start_for_throughput_tells_vllm_so(folder: Path) -> None:
    """`--startup throughput` is vLLM's own mode of that name; other starts leave it alone."""
    checkpoint = checkpoints.read(str(folder))
    asked = [EngineOptions(model_path=str(folder), device="cpu", startup=word) for word in ("balanced", "throughput")]
    usual, throughput = (engine_arguments(one, plan.make(one, checkpoint, detect.machine())) for one in asked)
    assert throughput.performance_mode == "throughput"
    assert usual.performance_mode != "throughput"


def test_seeds_of_any_size_repeat(lender: VllmBackend) -> None:
    """Also -1, which means "no seed" to vLLM itself."""
    for seed in (-1, 0, -(2**63), 2**63 - 1):
        sampling = TokenSampling(max_tokens=12, temperature=1.5, seed=seed)
        one, two = run(lender, sampling, sampling)
        assert one.token_ids == two.token_ids, seed


def test_end_tokens_are_ours_alone(lender: VllmBackend) -> None:
    """Without stop tokens in the request the model's own end token does not end it."""
    (eos,) = lender.info.eos_token_ids
    (outcome,) = run(lender, TokenSampling(max_tokens=5, temperature=0.0, logit_bias={eos: 1000.0}))
    assert outcome.token_ids == [eos] * 5
    assert outcome.finish_reason == "length"


def test_engine_arguments_are_read_as_vllm_reads_them() -> None:
    """Numbers, switches both ways, dashes or underscores."""
    found = extra_arguments({"max-num-batched-tokens": "64", "enable_prefix_caching": "false", "seed": 3})
    assert found == {"max-num-batched-tokens".replace("-", "_"): 64, "enable_prefix_caching": False, "seed": 3}


@pytest.mark.parametrize(
    ("pairs", "word"),
    [
        ({"max_num_batched_token": "64"}, "max_num_batched_tokens"),
        ({"max_num_batched_tokens": "many"}, "many"),
        ({"trust_remote_code": "true"}, "trust_remote_code"),
    ],
)
def test_wrong_engine_arguments_are_refused(pairs: dict[str, Any], word: str) -> None:
    """Unknown ones with near names, malformed ones by their value, those with a setting of their own by name."""
    with pytest.raises(InvalidSetting) as caught:
        extra_arguments(pairs)
    assert word in f"{caught.value.message} {caught.value.hint}"


def said(backend: VllmBackend, *requests: BackendRequest) -> tuple[dict[str, list[int]], dict[str, str | None]]:
    """Tokens of each request, and the code of the error that ended it."""
    tokens: dict[str, list[int]] = {}
    codes: dict[str, str | None] = {}

    async def read() -> None:
        for one in requests:
            backend.submit(one)
        async for step in backend.steps():
            for delta in step.deltas:
                tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
                if delta.finish_reason is not None:
                    codes[delta.request_id] = delta.error["code"] if delta.error else None
            if len(codes) == len(requests):
                return

    asyncio.run(asyncio.wait_for(read(), 120))
    return tokens, codes


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "top_p": 0.9}])
def test_logits_that_are_not_finite_end_their_sequence(
    lender: VllmBackend, monkeypatch: pytest.MonkeyPatch, poison: float, sampling: dict[str, Any]
) -> None:
    """NaN or infinity in one logit of one sequence, greedy or drawn: it ends with an error and no token of it, its mates say
    what they say alone, and vLLM forgets it."""
    mates = [BackendRequest(new_request_id(), [5, 6, 7, at], GREEDY) for at in (1, 2)]
    alone = [said(lender, BackendRequest(new_request_id(), one.prompt_token_ids, GREEDY))[0] for one in mates]
    bad = BackendRequest(new_request_id(), [9, 8, 7], msgspec.structs.replace(GREEDY, **sampling))
    runner: Any = lender._core._engine.model_executor.driver_worker.worker.model_runner
    compute, steps = runner.model.compute_logits, 0

    def poisoned(*arguments: Any) -> Any:
        nonlocal steps
        logits = compute(*arguments)
        at = next(
            (i for name, i in runner.input_batch.req_id_to_index.items() if name.startswith(bad.request_id)), None
        )
        steps += at is not None
        if at is not None and steps >= 3:
            logits[at, 7] = poison
        return logits

    monkeypatch.setattr(runner.model, "compute_logits", poisoned)
    tokens, codes = said(lender, bad, *mates)
    assert codes == {bad.request_id: "non_finite_logits"} | dict.fromkeys(one.request_id for one in mates)
    assert len(tokens[bad.request_id]) == 2
    assert [tokens[one.request_id] for one in mates] == [next(iter(one.values())) for one in alone]
    monkeypatch.undo()
    said(lender, BackendRequest(new_request_id(), [1, 2], GREEDY))
    assert not lender._core._engine.scheduler.has_unfinished_requests()


@pytest.mark.parametrize("where", ["fill_bitmask", "accept_tokens"])
def test_a_grammar_that_raises_ends_its_sequence(
    lender: VllmBackend, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Where it says what may follow, and where it takes what was drawn: the mate says what it says alone."""
    grammar: Any = import_module("vllm.v1.structured_output.backend_xgrammar").XgrammarGrammar

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no such state")

    wrap = guards.guarded_fill if where == "fill_bitmask" else guards.guarded_accept
    mate = BackendRequest(new_request_id(), [5, 6, 7], GREEDY)
    alone = said(lender, BackendRequest(new_request_id(), [5, 6, 7], GREEDY))[0]
    guide = TokenGuide("regex", "[0-9]{20}")
    guided = BackendRequest(new_request_id(), [1, 2, 3], msgspec.structs.replace(GREEDY, guide=guide))
    monkeypatch.setattr(grammar, where, wrap(broken))
    tokens, codes = said(lender, guided, mate)
    assert codes == {guided.request_id: "internal_error", mate.request_id: None}
    assert [tokens[mate.request_id]] == list(alone.values())


def test_a_sequence_that_cannot_be_begun_fails_alone(lender: VllmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core raises over a request that it is handed: the mate says what it says alone."""
    core: Any = lender._core._engine
    begin = core.preprocess_add_request
    bad, mate = (BackendRequest(new_request_id(), prompt, GREEDY) for prompt in ([1, 2, 3], [5, 6, 7]))
    alone = said(lender, BackendRequest(new_request_id(), [5, 6, 7], GREEDY))[0]

    def picky(request: Any) -> Any:
        if request.request_id.startswith(bad.request_id):
            raise RuntimeError("cannot be hashed")
        return begin(request)

    monkeypatch.setattr(core, "preprocess_add_request", picky)
    tokens, codes = said(lender, bad, mate)
    assert codes == {bad.request_id: "internal_error", mate.request_id: None}
    assert [tokens[mate.request_id]] == list(alone.values())


class Fault:
    """Raises in the model's forward pass when one of some sequences is in the batch, from its `after`-th step on, so many `times`."""

    def __init__(
        self, lender: VllmBackend, bad: list[str], error: Exception, after: int = 1, times: float = math.inf
    ) -> None:
        self._runner: Any = lender._core._engine.model_executor.driver_worker.worker.model_runner
        self._forward, self._bad, self._error, self._after = self._runner._model_forward, bad, error, after
        self._times = times
        self.raised = self.steps = 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """In place of the runner's own."""
        batch = list(self._runner.input_batch.req_id_to_index)
        if not self._bad or any(name.startswith(bad) for bad in self._bad for name in batch):
            self.steps += 1
            if self.steps >= self._after and self.raised < self._times:
                self.raised += 1
                raise self._error
        return self._forward(*arguments, **named)

    def set(self, monkeypatch: pytest.MonkeyPatch) -> Fault:
        """Break the runner until the test ends."""
        monkeypatch.setattr(self._runner, "_model_forward", self.forward)
        return self


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}])
@pytest.mark.parametrize("after", [1, 3])
def test_a_sequence_whose_step_raises_fails_alone(
    lender: VllmBackend, monkeypatch: pytest.MonkeyPatch, after: int, sampling: dict[str, Any]
) -> None:
    """Two of six break vLLM's forward pass, with their prompt or later: the mates, greedy or seeded, guided or not, say what
    they say alone, nothing is held back afterwards and nothing that was half computed is taken from the cache."""
    params = msgspec.structs.replace(GREEDY, **sampling)
    mates = [BackendRequest(new_request_id(), [5, 6, 7, at] * 40, params) for at in range(3)]
    mates.append(BackendRequest(new_request_id(), [1, 2, 3], guided("regex", "[0-9]{20}")))
    bad = [BackendRequest(new_request_id(), [9, 8, 7, at] * 40, GREEDY) for at in range(2)]
    alone = {one.request_id: by_itself(lender, one) for one in [*mates, *bad]}
    fault = Fault(lender, [one.request_id for one in bad], RuntimeError("shapes differ"), after).set(monkeypatch)
    tokens, codes = said(lender, mates[0], bad[0], *mates[1:], bad[1])
    names = [one.request_id for one in mates]
    assert codes == dict.fromkeys((one.request_id for one in bad), "internal_error") | dict.fromkeys(names)
    assert [tokens[name] for name in names] == [alone[name] for name in names]
    assert fault.raised >= 3
    monkeypatch.undo()
    assert [by_itself(lender, one) for one in bad] == [alone[one.request_id] for one in bad]
    assert not lender._core._engine.scheduler.has_unfinished_requests()
    assert not lender._core._quarantine.active


def by_itself(lender: VllmBackend, request: BackendRequest) -> list[int]:
    """Tokens of such a request without mates."""
    tokens, _ = said(lender, msgspec.structs.replace(request, request_id=new_request_id()))
    return next(iter(tokens.values()))


def test_memory_that_runs_out_in_a_step_ends_the_newest(lender: VllmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is told to come again, whoever the step was computed for; the others go on."""
    old, new = (BackendRequest(new_request_id(), prompt, GREEDY) for prompt in ([5, 6, 7], [9, 8, 7]))
    alone = said(lender, BackendRequest(new_request_id(), [5, 6, 7], GREEDY))[0]
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    Fault(lender, [old.request_id], error, 2, 1).set(monkeypatch)
    tokens, codes = said(lender, old, new)
    assert codes == {old.request_id: None, new.request_id: "engine_out_of_memory"}
    assert [tokens[old.request_id]] == list(alone.values())
