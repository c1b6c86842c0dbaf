"""One running sequence: its request, its random stream, what it has produced and when it ends.

Made by the backend for each request; lanes order them into batches, the sampler draws for them.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import torch

from ..base import BackendRequest, FinishReason, SequenceDelta, TokenLogprob
from .untyped import to_floats

if TYPE_CHECKING:
    from .guiding import Matcher

GREEDY_BELOW = 1e-5  # a temperature under this means greedy
DRAWS_AHEAD = 32  # uniform numbers taken from the generator at once


class Row:
    """State of one sequence.

    Attributes:
        limit: tokens it may generate: `max_tokens`, or what the context leaves.
        generated: tokens drawn so far.
        counts: [vocab_size] float32, how often each token was drawn; only for rows with penalties.
        seen: [vocab_size] bool, tokens of prompt and output; only for rows with a repetition penalty.
        matcher: holds it to its guide; only for rows with one.
        order: of its coming: the highest is the newest.
    """

    __slots__ = (
        "_draws",
        "counts",
        "generated",
        "generator",
        "greedy",
        "limit",
        "matcher",
        "order",
        "request",
        "sampling",
        "seen",
        "stops",
    )

    def __init__(self, request: BackendRequest, room: int, matcher: Matcher | None = None, order: int = 0) -> None:
        sampling = request.sampling
        self.order = order
        self.request = request
        self.sampling = sampling
        self.limit = max(1, min(sampling.max_tokens, room))
        self.generated = 0
        self.greedy = sampling.temperature < GREEDY_BELOW
        self.matcher = matcher
        self.stops = frozenset(sampling.stop_token_ids) if matcher is None else matcher.stops
        self.counts: torch.Tensor | None = None
        self.seen: torch.Tensor | None = None
        self.generator: torch.Generator | None = None
        self._draws: list[float] = []

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return self.request.request_id

    @property
    def prompt(self) -> list[int]:
        """Prompt token ids."""
        return self.request.prompt_token_ids

    def uniform(self) -> float:
        """The next number of this row's own random stream, in [0, 1), the same until `spend`; no other row can change it."""
        if not self._draws:
            if self.generator is None:
                seed = self.sampling.seed
                self.generator = torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed)
            self._draws = to_floats(torch.rand(DRAWS_AHEAD, generator=self.generator, dtype=torch.float64))
            self._draws.reverse()
        return self._draws[-1]

    def spend(self) -> None:
        """The number that `uniform` gave has been used."""
        self._draws.pop()

    def push(self, token: int, logprob: TokenLogprob | None) -> SequenceDelta:
        """Count one drawn token and say whether it ended the sequence."""
        self.generated += 1
        reason: FinishReason | None = None
        stop = None
        matcher = self.matcher
        if matcher is not None and matcher.accept(token) and matcher.finished:
            reason, stop = "stop", token if token in self.stops else None
        elif token in self.stops and self.generated > self.sampling.min_tokens:
            reason, stop = "stop", token
        elif self.generated >= self.limit:
            reason = "length"
        return SequenceDelta(
            self.request.request_id, [token], reason, stop, None, None if logprob is None else [logprob]
        )
