"""Every architecture gives what `transformers.generate` gives, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
import transformers
from tests.openllm.backends.torch.conftest import MakeScheduler
from tests.openllm.backends.torch.drive import PROMPTS, request, run, tokens, tokens_of
from tests.tiny_models import ARCHITECTURES, REMOTE, SEQ2SEQ, tiny_checkpoint

from openllm.backends.torch.lanes import SoloLane, WindowLane

ALONE = ("mamba", "bart", "chatglm")  # recurrent state; absolute positions counted by the cache


def generate(path: Path, name: str, prompt: list[int], max_tokens: int) -> list[int]:
    """Greedy tokens of stock transformers."""
    encodes = name in SEQ2SEQ or name == "chatglm"  # which calls itself so, and is none
    auto = transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(path, trust_remote_code=name in REMOTE).eval()
    ids = torch.tensor([prompt])
    arguments = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(ids, max_new_tokens=max_tokens, **arguments)[0].tolist()
    return out[1:] if name in SEQ2SEQ else out[len(prompt) :]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *REMOTE])
def test_architecture(name: str, make_scheduler: MakeScheduler, checkpoints: Path) -> None:
    """Four prompts of unlike length, joining one by one, get the tokens that each gets alone from `generate`."""
    scheduler = make_scheduler(name)
    outputs = []
    for at, prompt in enumerate(PROMPTS):
        scheduler.add(request(str(at), prompt, max_tokens=16))
        outputs += [scheduler.step(), scheduler.step()]
    kinds = {type(lane) for lane in scheduler.lanes}
    assert kinds == {SoloLane if name in ALONE else WindowLane}
    while not scheduler.idle:
        outputs.append(scheduler.step())
    path = tiny_checkpoint(name, checkpoints)
    expected = {str(at): generate(path, name, list(prompt), 16) for at, prompt in enumerate(PROMPTS)}
    assert tokens_of(outputs) == expected


@pytest.mark.parametrize("attention", ["grouped", "sdpa", "eager"])
def test_attention(attention: str, make_scheduler: MakeScheduler) -> None:
    """Every attention implementation gives the same greedy tokens."""
    requests = [request(str(at), prompt) for at, prompt in enumerate(PROMPTS)]
    assert tokens(make_scheduler(attention=attention), *requests) == tokens(make_scheduler(), *requests)


def test_batch_equals_alone(make_scheduler: MakeScheduler) -> None:
    """Forty sequences over fewer slots, joining and leaving as they end, each get what they get alone."""
    requests = [
        request(f"{at}", [1 + (at * 7 + i) % 300 for i in range(1 + at * 5 % 37)], max_tokens=1 + at * 3 % 23)
        for at in range(40)
    ]
    together = tokens(make_scheduler(max_rows=6), *requests)
    alone = make_scheduler()
    for one in requests:
        assert together[one.request_id] == tokens(alone, one)[one.request_id]


def test_long_prompts_are_prefilled_in_chunks(make_scheduler: MakeScheduler) -> None:
    """A prompt longer than a step's budget takes several steps, in which others go on, and changes nothing."""
    prompt = [1 + (i * i) % 300 for i in range(100)]
    expected = tokens(make_scheduler(), request("a", prompt), request("b", [5, 6]))
    scheduler = make_scheduler(prefill_tokens=16)
    scheduler.add(request("b", [5, 6]))
    first = scheduler.step()
    scheduler.add(request("a", prompt))
    outputs = [first]
    for _ in range(6):
        outputs.append(scheduler.step())
        assert [delta.request_id for delta in outputs[-1].deltas] == ["b"]
    outputs += run(scheduler)
    assert tokens_of(outputs) == expected


def test_equal_prompts_share_one_prefill(make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of one prompt that arrive together compute it once and still draw on their own."""
    scheduler = make_scheduler()
    widths: list[int] = []
    prefill = scheduler.model.prefill
    monkeypatch.setattr(
        type(scheduler.model), "prefill", lambda self, ids, *rest: widths.append(ids.shape[0]) or prefill(ids, *rest)
    )
    found = tokens(scheduler, *(request(str(seed), PROMPTS[0], temperature=1.0, seed=seed) for seed in range(5)))
    assert widths == [1]
    assert len({tuple(ids) for ids in found.values()}) == 5


def test_equal_prompts_of_two_keys_are_computed_apart(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who pays for a prompt alone cannot find out by the time it takes that another key has the same one."""
    scheduler = make_scheduler()
    widths: list[int] = []
    prefill = scheduler.model.prefill
    monkeypatch.setattr(
        type(scheduler.model), "prefill", lambda self, ids, *rest: widths.append(ids.shape[0]) or prefill(ids, *rest)
    )
    same = [request(str(number), PROMPTS[0]) for number in range(4)]
    found = tokens(
        scheduler, *(msgspec.structs.replace(r, cache_salt=salt) for r, salt in zip(same, "aabb", strict=True))
    )
    assert sum(widths) == 2
    assert len({tuple(ids) for ids in found.values()}) == 1
