"""The echo "model": from the tokens so far to the next one, through real logits and real sampling, in plain Python.

One `EchoSequence` per running request, driven by `EchoBackend`. The scripted token's logit stands `peak` above the
others, so every sampling field acts on it as it would on a language model.
"""

from __future__ import annotations

import math
import random
from collections import Counter

from ..base import BackendRequest, TokenLogprob, TokenSampling

VOCAB_SIZE = 260  # 256 bytes and four special tokens
BOS, EOS, TURN_START, TURN_END = 256, 257, 258, 259
SPACE = 32
GREEDY_BELOW = 1e-5
CERTAIN_PEAK = 40.0
SPECIAL_LOGIT = -20.0


class EchoSequence:
    """One request's state: what it will say, what it has said, and its own random stream."""

    def __init__(self, request: BackendRequest, reply: list[int] | None, peak: float) -> None:
        self.request = request
        self.script = reply if reply is not None else request.prompt_token_ids
        self.peak = peak
        self.faulty = self.unknown_token = False
        self.relieved = False  # the memory that it lacked was freed
        self.output: list[int] = []
        sampling = request.sampling
        self.random = random.Random(sampling.seed if sampling.seed is not None else request.request_id)
        self.counts: Counter[int] = Counter()
        self.seen = set(request.prompt_token_ids)
        self.plain = (
            (sampling.temperature < GREEDY_BELOW or peak >= CERTAIN_PEAK)
            and not sampling.logit_bias
            and sampling.repetition_penalty == 1.0
            and sampling.presence_penalty == 0.0
            and sampling.frequency_penalty == 0.0
            and sampling.logprobs is None
        )

    def next_token(self) -> tuple[int, TokenLogprob | None]:
        """Draw one token and remember it; with its log-probability when the request asked."""
        target = self._target()
        if self.plain:
            self.output.append(target)
            return target, None
        sampling = self.request.sampling
        logits = self._logits(target)
        raw = list(logits)
        self._shape(logits, sampling)
        token = _draw(logits, sampling, self.random)
        self.output.append(token)
        self.counts[token] += 1
        self.seen.add(token)
        if sampling.logprobs is None:
            return token, None
        return token, _logprob(raw, token, sampling.logprobs)

    def _target(self) -> int:
        position, sampling = len(self.output), self.request.sampling
        may_end = EOS in sampling.stop_token_ids and position >= sampling.min_tokens
        if position >= len(self.script) and may_end:
            return EOS
        target = self.script[position % len(self.script)] if self.script else SPACE
        if target in sampling.stop_token_ids and position < sampling.min_tokens:
            return SPACE
        return target

    def _logits(self, target: int) -> list[float]:
        """[vocab] logits: the target `peak` above its runner-up, which is the byte after it."""
        logits = [2.0 - ((token - target - 1) % 256) / 256 for token in range(256)]
        logits += [SPECIAL_LOGIT] * (VOCAB_SIZE - 256)
        logits[target] = 2.0 + self.peak
        return logits

    def _shape(self, logits: list[float], sampling: TokenSampling) -> None:
        """Penalties, bias, and the ban of end tokens before `min_tokens`, in place."""
        if sampling.repetition_penalty != 1.0:
            for token in self.seen:
                value = logits[token]
                logits[token] = (
                    value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
                )
        for token, count in self.counts.items():
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
        for token, bias in sampling.logit_bias.items():
            if 0 <= token < VOCAB_SIZE:
                logits[token] += bias
        if len(self.output) < sampling.min_tokens:
            for token in sampling.stop_token_ids:
                if 0 <= token < VOCAB_SIZE:
                    logits[token] = -1e9


def _draw(logits: list[float], sampling: TokenSampling, rng: random.Random) -> int:
    order = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)
    if sampling.temperature < GREEDY_BELOW:
        return order[0]
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    best = logits[order[0]]
    weights = [math.exp((logits[token] - best) / sampling.temperature) for token in order]
    if sampling.min_p > 0:  # the best one's weight is 1
        kept = sum(1 for weight in weights if weight >= sampling.min_p)
        order, weights = order[:kept], weights[:kept]
    if sampling.top_p < 1:
        limit, total, kept = sampling.top_p * sum(weights), 0.0, 0
        for weight in weights:
            total += weight
            kept += 1
            if total >= limit:
                break
        order, weights = order[:kept], weights[:kept]
    return rng.choices(order, weights)[0]


def _logprob(logits: list[float], token: int, top: int) -> TokenLogprob:
    best = max(logits)
    normaliser = best + math.log(sum(math.exp(value - best) for value in logits))
    order = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)[:top]
    return TokenLogprob(token, logits[token] - normaliser, tuple((t, logits[t] - normaliser) for t in order))
