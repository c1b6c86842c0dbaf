"""Draw one token from logits, by everything that a request may ask for."""

from __future__ import annotations

from collections import Counter

import numpy as np

from openllm.backends.base import TokenLogprob, TokenSampling

from .model import Logits

GREEDY_BELOW = 1e-5


def draw(
    logits: Logits, sampling: TokenSampling, prompt: set[int], drawn: Counter[int], rng: np.random.Generator
) -> int:
    """Penalties, bias and the minimum length, then temperature, top-k, top-p and min-p.

    Args:
        logits: [vocab], the model's own; they are left as they are.
        prompt: token ids of the prompt.
        drawn: how often each token was drawn so far.
    """
    logits = logits.astype(np.float64)
    if sampling.repetition_penalty != 1.0 and (seen := list(prompt | set(drawn))):
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
    for token, count in drawn.items():
        logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
    for token, bias in sampling.logit_bias.items():
        if 0 <= token < len(logits):
            logits[token] += bias
    if drawn.total() < sampling.min_tokens:
        logits[list(sampling.stop_token_ids)] = -np.inf
    if sampling.temperature < GREEDY_BELOW:
        return int(logits.argmax())
    return _sample(logits / sampling.temperature, sampling, rng)


def _sample(logits: np.ndarray, sampling: TokenSampling, rng: np.random.Generator) -> int:
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    weights = np.exp(logits[order] - logits[order[0]])
    weights /= weights.sum()
    kept = weights >= sampling.min_p * weights[0]
    kept &= np.cumsum(weights) - weights < sampling.top_p  # what stands before a token does not fill top_p yet
    kept[0] = True
    weights = weights[kept]
    return int(rng.choice(order[kept], p=weights / weights.sum()))


def logprob(logits: Logits, token: int, top: int) -> TokenLogprob:
    """Of the drawn token and the `top` most likely ones, by the model's own logits."""
    exact = logits.astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    likely = np.argsort(-exact, kind="stable")[:top]
    return TokenLogprob(token, float(exact[token]), tuple((int(one), float(exact[one])) for one in likely))
