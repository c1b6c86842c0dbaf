"""Each sampling parameter does what it says, on logits made for the purpose."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from tests.openllm.backends.torch.drive import request
from torch import Tensor

from openllm.backends.base import TokenSampling
from openllm.backends.torch.rows import Row
from openllm.backends.torch.sampling import CANDIDATES, BatchSampler, check

CPU = torch.device("cpu")
LADDER = [0.5, 0.25, 0.125, 0.0625, 0.0625]  # probabilities of tokens 0 to 4
DRAWS = 400


def row(prompt: tuple[int, ...] = (0,), **sampling: Any) -> Row:
    """A row of a request with these sampling parameters."""
    return Row(request("r", prompt, TokenSampling(max_tokens=1000), **sampling), 1000)


def logits(*probabilities: list[float]) -> Tensor:
    """Logits whose softmax is the given rows."""
    return torch.tensor(probabilities).log()


def draws(probabilities: list[float], count: int = DRAWS, **sampling: Any) -> Counter[int]:
    """How often each token is drawn from one distribution by one row."""
    sampler = BatchSampler([row(**{"temperature": 1.0, "seed": 7, **sampling})], len(probabilities), CPU)
    return Counter(sampler.draw(logits(probabilities)).token_ids[0] for _ in range(count))


def draw_one(one: Row, values: Tensor) -> int:
    """One draw for one row."""
    return BatchSampler([one], values.shape[-1], CPU).draw(values).token_ids[0]


def test_greedy_takes_the_most_likely() -> None:
    """Temperature 0 always takes the first of the most likely tokens."""
    sampler = BatchSampler([row(temperature=0.0)] * 2, 3, CPU)
    assert sampler.draw(torch.tensor([[0.0, 3.0, 1.0], [5.0, 5.0, 1.0]])).token_ids == [1, 0]


def test_plain_sampling_follows_the_distribution() -> None:
    """Without filters, frequencies approach the probabilities."""
    found = draws(LADDER, 4000)
    for token, probability in enumerate(LADDER):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_temperature_flattens_and_sharpens() -> None:
    """Temperature divides the logits."""
    cold, hot = draws(LADDER, temperature=0.25), draws(LADDER, temperature=2.0)
    assert cold[0] / DRAWS == pytest.approx(0.5**4 / sum(p**4 for p in LADDER), abs=0.06)
    assert hot[0] / DRAWS == pytest.approx(0.5**0.5 / sum(p**0.5 for p in LADDER), abs=0.08)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_p": 0.49}, {0}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"top_p": 1e-9}, {0}),
        ({"min_p": 0.5}, {0, 1}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.6}, {0, 1}),  # nucleus of what top-k left: 0.571 is not 0.6 yet
        ({"top_k": 3, "top_p": 0.57}, {0}),
    ],
)
def test_filters(sampling: dict[str, Any], possible: set[int]) -> None:
    """top_k, top_p and min_p leave exactly the tokens they should, in a vocabulary of any size."""
    assert set(draws(LADDER, **sampling)) == possible
    wide = [p * (1 - 1e-4) for p in LADDER] + [1e-4 / 995] * 995
    assert set(draws(wide, **sampling)) == possible


def test_a_nucleus_wider_than_the_candidates() -> None:
    """top_p over a flat vocabulary keeps its share of tokens, however many that is."""
    size = 4 * CANDIDATES
    found = draws([1 / size] * size, 3000, top_p=0.5)
    assert 0.47 * size < len(found) <= size // 2 + 1
    by_k = draws([1 / size] * size, 3000, top_k=2 * CANDIDATES)
    assert len(by_k) > CANDIDATES


def test_seeds_repeat_and_differ() -> None:
    """The same seed draws the same tokens, another one others; no seed means a fresh one."""
    flat = [1 / 50] * 50

    def sequence(seed: int | None) -> list[int]:
        sampler = BatchSampler([row(temperature=1.0, seed=seed)], 50, CPU)
        return [sampler.draw(logits(flat)).token_ids[0] for _ in range(40)]

    assert sequence(3) == sequence(3) != sequence(4)
    assert sequence(-1) == sequence(-1)
    assert sequence(None) != sequence(None)


@pytest.mark.parametrize("mine", [{}, {"top_p": 0.9}, {"top_k": 7}, {"min_p": 0.01}, {"presence_penalty": 0.5}])
def test_batch_mates_never_change_a_random_stream(mine: dict[str, Any]) -> None:
    """A seeded row draws the same tokens alone and between mates of every other kind, regrouped as they come and go."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(30, 64, generator=generator)
    alone = row(temperature=0.8, seed=11, **mine)
    sampler = BatchSampler([alone], 64, CPU)
    expected = [sampler.draw(step[None].clone()).token_ids[0] for step in steps]
    one = row(temperature=0.8, seed=11, **mine)
    kinds = [{"temperature": 0.0}, {}, {"top_p": 0.4}, {"top_k": 40, "min_p": 0.1}, {"repetition_penalty": 1.5}]
    mates = [row(**{"temperature": 1.0, **kind}) for kind in kinds]
    found = []
    for at, step in enumerate(steps):
        batch = [*mates[: at % 3], one, *mates[3 : 3 + at % 2]]
        others = torch.randn(len(batch), 64, generator=generator)
        others[at % 3] = step
        found.append(BatchSampler(batch, 64, CPU).draw(others).token_ids[at % 3])
    assert found == expected


def test_repetition_penalty() -> None:
    """Tokens of the prompt and of the answer are made less likely, whichever sign their logit has."""
    one = row((2,), temperature=0.0, repetition_penalty=2.0)
    sampler = BatchSampler([one], 4, CPU)
    assert sampler.draw(torch.tensor([[1.2, 1.1, 2.0, -1.0]])).token_ids == [0]  # 2.0 / 2 loses to 1.2
    assert sampler.draw(torch.tensor([[1.2, 1.1, 2.0, -1.0]])).token_ids == [1]  # now 0 has been drawn too
    assert sampler.draw(torch.tensor([[-0.5, -0.6, -0.4, -0.7]])).token_ids == [3]  # -0.4 * 2 loses to -0.7


def test_presence_and_frequency_penalties() -> None:
    """Presence counts once, frequency every time; tokens of the prompt do not count."""
    steady = torch.tensor([[2.0, 1.2, 0.0]])
    present = BatchSampler([row(temperature=0.0, presence_penalty=1.0)], 3, CPU)
    assert [present.draw(steady.clone()).token_ids[0] for _ in range(4)] == [0, 1, 0, 0]
    frequent = BatchSampler([row(temperature=0.0, frequency_penalty=0.5)], 3, CPU)
    assert [frequent.draw(steady.clone()).token_ids[0] for _ in range(6)] == [0, 0, 1, 0, 1, 0]
    encouraged = BatchSampler([row(temperature=0.0, presence_penalty=-2.0)], 3, CPU)
    assert [encouraged.draw(steady.clone()).token_ids[0] for _ in range(3)] == [0, 0, 0]


def test_penalties_survive_a_regroup() -> None:
    """What a row has produced still counts after rows joined or left its batch."""
    one = row(temperature=0.0, frequency_penalty=0.5)
    steady = torch.tensor([[2.0, 1.2, 0.0]])
    found = []
    for at in range(6):
        batch = [one] if at % 2 else [row(temperature=0.0, presence_penalty=0.1), one]
        found.append(BatchSampler(batch, 3, CPU).draw(steady.repeat(len(batch), 1)).token_ids[-1])
    assert found == [0, 0, 1, 0, 1, 0]


def test_logit_bias() -> None:
    """A bias is added to its token's logit, of its own row only."""
    rows = [row(temperature=0.0, logit_bias={2: 5.0}), row(temperature=0.0), row(temperature=0.0, logit_bias={0: -1e9})]
    assert BatchSampler(rows, 3, CPU).draw(torch.tensor([[2.0, 1.0, 0.0]] * 3)).token_ids == [2, 0, 1]


def test_min_tokens_forbids_stop_tokens_until_then() -> None:
    """Stop tokens cannot be drawn before the minimum, and can after."""
    one = row(temperature=0.0, min_tokens=2, stop_token_ids=(0, 1))
    sampler = BatchSampler([one], 3, CPU)
    found = []
    for _ in range(3):
        token = sampler.draw(torch.tensor([[3.0, 2.0, 1.0]])).token_ids[0]
        found.append((token, one.push(token, None).finish_reason))
    assert found == [(2, None), (2, None), (0, "stop")]


def test_logprobs_are_those_of_the_model() -> None:
    """Natural logarithms of the untouched softmax, whatever temperature, bias or filters did to the draw."""
    values = torch.tensor([[1.0, 2.0, 3.0, 0.5], [1.0, 2.0, 3.0, 0.5], [0.0, 1.0, 0.0, 0.0]])
    expected = torch.log_softmax(values.double(), dim=-1)
    rows = [
        row(temperature=0.0, logprobs=2),
        row(temperature=0.7, seed=1, top_k=1, logit_bias={0: 9.0}, logprobs=0),
        row(temperature=0.0),
    ]
    draw = BatchSampler(rows, 4, CPU).draw(values.clone())
    assert draw.logprobs is not None and draw.logprobs[2] is None
    first, second = draw.logprobs[0], draw.logprobs[1]
    assert first is not None and second is not None
    assert (first.token_id, second.token_id) == (2, 0)
    assert first.logprob == pytest.approx(expected[0, 2].item(), abs=1e-6)
    assert [token for token, _ in first.top] == [2, 1]
    assert [value for _, value in first.top] == pytest.approx(expected[0, [2, 1]].tolist(), abs=1e-6)
    assert second.logprob == pytest.approx(expected[1, 0].item(), abs=1e-6)
    assert second.top == ()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("mates", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 1}, {"top_p": 0.5, "seed": 1}])
def test_poisoned_rows_are_named(poison: float, mates: dict[str, Any]) -> None:
    """NaN or infinity in one row is reported for that row; the others draw as if it were not there."""
    values = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    clean = BatchSampler([row(**mates), row(**mates)], 16, CPU).draw(values[[0, 2]].clone())
    values[1, 5] = poison
    draw = BatchSampler([row(**mates), row(logprobs=1, **mates), row(**mates)], 16, CPU).draw(values)
    assert draw.bad == [1]
    assert [draw.token_ids[0], draw.token_ids[2]] == clean.token_ids
    assert draw.logprobs == [None, None, None]


def test_an_impossible_row_is_named() -> None:
    """A row in which no token is possible is reported, not drawn from."""
    assert BatchSampler([row(temperature=0.0)], 3, CPU).draw(torch.full((1, 3), -math.inf)).bad == [0]


def test_ids_outside_the_vocabulary_are_refused() -> None:
    """A prompt token or a bias the model does not know is named before it can do harm."""
    bad_prompt, bad_bias = check(row((1, 99)), 50), check(row(logit_bias={77: 1.0}), 50)
    assert bad_prompt is not None and "99" in bad_prompt.message
    assert bad_bias is not None and bad_bias.param == "logit_bias" and "77" in bad_bias.message
    assert check(row((1, 49), logit_bias={49: 1.0}), 50) is None
    assert draw_one(row(temperature=0.0, logit_bias={49: 99.0}), torch.zeros(1, 50)) == 49
