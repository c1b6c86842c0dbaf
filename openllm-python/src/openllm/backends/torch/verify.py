"""Check, once per model, that rows of different length really can share a window and that an attention is right.

Decoding step by step is compared with computing each whole sequence in one pass without a cache. Called by `tuning` after
loading; what does not hold falls back to a slower way that does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache

from ..base import BackendRequest, TokenSampling
from . import quantised
from .lanes import Prefilled, SoloLane, WindowLane
from .model import LoadedModel
from .rows import Row
from .untyped import holds_only_keys_and_values

LENGTHS = (3, 7)  # prompts of unlike length
STEPS = 3
TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Of the spread of the logits: how far half of the steps may be off. Rounding stays below, over all layers of a 4-bit model too;
positions that are one off differ by half the spread and more."""
ONE_STEP = {torch.float32: 0.01, torch.bfloat16: 0.6, torch.float16: 0.2}
"""How far any step may be off: where a model is undecided, what one rounding turns grows through the layers."""
SPREAD = (5**0.5 - 1) / 2  # multiples of the golden ratio's inverse, modulo 1, lie evenly in 0..1


@torch.inference_mode()
def reference(model: LoadedModel) -> list[Tensor]:
    """Logits of each prompt and the tokens after it in one pass, [1 + STEPS, vocab_size] each."""
    tokens = [[_token(model, prompt, step) for step in range(STEPS)] for prompt in range(len(LENGTHS))]
    with quantised.without_rounding(model.module):
        return [model.whole(_prompt(model, prompt), tokens[prompt]) for prompt in range(len(LENGTHS))]


@torch.inference_mode()
def windowed(model: LoadedModel, references: list[list[Tensor]]) -> bool:
    """Whether rows that share a window, each joining at another step, get the logits of one of the references."""
    return _holds(model, True, lambda: _together(model), references)


@torch.inference_mode()
def alone(model: LoadedModel, references: list[list[Tensor]]) -> bool:
    """Whether a row by itself on the architecture's own cache gets the logits of one of the references."""
    return _holds(model, False, lambda: [_alone(model, prompt) for prompt in range(len(LENGTHS))], references)


def _holds(model: LoadedModel, shared: bool, run: Callable[[], list[Tensor]], references: list[list[Tensor]]) -> bool:
    model.windowed = shared
    try:
        with quantised.without_rounding(model.module):
            found = run()
    except Exception:  # whatever an architecture raises means: not this way
        return False
    return any(_near(found, expected, quantised.computed_in(model.module, model.dtype)) for expected in references)


def _near(found: list[Tensor], expected: list[Tensor], computed_in: torch.dtype) -> bool:
    distances = [distance(mine, theirs) for mine, theirs in zip(found, expected, strict=True)]
    return all(
        bool(steps.median() <= TOLERANCE[computed_in]) and bool(steps.amax() <= ONE_STEP[computed_in])
        for steps in distances
    )


def distance(mine: Tensor, theirs: Tensor) -> Tensor:
    """How far logits are from those expected, by step, in units of their spread.

    Args:
        mine, theirs: [steps, vocab_size]

    Returns:
        [steps]; not a number where `mine` is not one.
    """
    return (mine - theirs).abs().amax(dim=-1) / theirs.std().clamp(min=1e-6)


def _alone(model: LoadedModel, prompt: int) -> Tensor:
    logits, source = _prefill(model, [prompt])
    lane = SoloLane(model)
    lane.join([_row(model, prompt)], source, [0], [_token(model, prompt, 0)])
    found = [logits[0].float()]
    for step in range(STEPS):
        found.append(lane.step()[0].float())
        lane.feed(torch.tensor([_token(model, prompt, step + 1)], device=model.device))
    return torch.stack(found)


def _together(model: LoadedModel) -> list[Tensor]:
    """The same with all prompts prefilled at once; each row joins one step after the one before it."""
    prompts = list(range(len(LENGTHS)))
    logits, source = _prefill(model, prompts)
    if not _holds_keys_and_values(source):
        raise TypeError("the cache holds something besides keys and values")
    lane = WindowLane(model, len(prompts))
    found = [[logits[prompt].float()] for prompt in prompts]
    for turn in range(STEPS + len(prompts) - 1):
        if turn < len(prompts):
            lane.join([_row(model, turn)], source, [turn], [_token(model, turn, 0)])
        stepped = lane.step()
        lane.feed(torch.tensor([_token(model, p, turn - p + 1) for p in range(len(lane.rows))], device=model.device))
        for prompt in range(len(lane.rows)):
            found[prompt].append(stepped[prompt].float())
    return [torch.stack(steps[: STEPS + 1]) for steps in found]


def _prompt(model: LoadedModel, prompt: int) -> list[int]:
    return [_id(model, 1 + 10 * prompt + i) for i in range(LENGTHS[prompt])]


def _token(model: LoadedModel, prompt: int, step: int) -> int:
    return _id(model, 31 + 10 * prompt + step)


def _id(model: LoadedModel, number: int) -> int:
    """Some token id, from all over the vocabulary: it begins with special ones, whose order no model has learnt."""
    return 1 + int(number * SPREAD % 1 * (model.vocab_size - 1))


def _row(model: LoadedModel, prompt: int) -> Row:
    return Row(BackendRequest(str(prompt), _prompt(model, prompt), TokenSampling(max_tokens=64)), 64)


def _prefill(model: LoadedModel, prompts: list[int]) -> tuple[Tensor, Prefilled]:
    ids = [_prompt(model, prompt) for prompt in prompts]
    lengths = [len(row) for row in ids]
    longest, device = max(lengths), model.device
    if model.seq2seq:
        mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device).unsqueeze(1)
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
        logits, cache = model.encode(padded, mask)
        return logits, Prefilled(cache=cache, lengths=[1] * len(ids), encoder_lengths=lengths)
    own = model.new_cache()
    mask = torch.arange(longest, device=device) >= longest - torch.tensor(lengths, device=device).unsqueeze(1)
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids], device=device)
    logits = model.prefill(padded, None if len(ids) == 1 else mask, own)
    return logits, Prefilled(cache=own, lengths=lengths)


def _holds_keys_and_values(source: Prefilled) -> bool:
    cache = source.cache
    if isinstance(cache, EncoderDecoderCache):
        return all(map(holds_only_keys_and_values, (cache.self_attention_cache, cache.cross_attention_cache)))
    return holds_only_keys_and_values(cache)
