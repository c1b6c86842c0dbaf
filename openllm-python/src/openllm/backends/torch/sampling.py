"""Draw one token for each row of a batch from its logits, each row with its own parameters and random stream.

`BatchSampler` is made when a batch's rows change and then called once per step; rows that are plainly greedy cost one
argmax for the whole batch. Order of the transformations: penalties, bias, guide, minimum length, temperature, then top-k,
top-p and min-p. Log-probabilities are those of the model's own logits, before any of them. Knows nothing of caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openllm_core.errors import InvalidSamplingParams, OpenLLMError

from ..base import TokenLogprob
from . import guiding
from .rows import Row
from .untyped import to_float_rows, to_floats, to_int_rows, to_ints

CANDIDATES = 256  # most likely tokens that top-k, top-p and min-p look at first; the whole vocabulary where too few


class Draw:
    """What one step drew.

    Attributes:
        tokens: [rows] int64 on the model's device; 0 in rows that failed.
        token_ids: the same as a list.
        logprobs: per row, None where not asked for; None when nobody asked.
        bad: rows whose logits were not finite; nothing was drawn for them.
        errors: rows for which something of their own raised, and what; nothing was drawn for them.
    """

    __slots__ = ("bad", "errors", "logprobs", "token_ids", "tokens")

    def __init__(self, tokens: Tensor, token_ids: list[int], bad: list[int], errors: dict[int, Exception]) -> None:
        self.tokens = tokens
        self.token_ids = token_ids
        self.bad = bad
        self.errors = errors
        self.logprobs: list[TokenLogprob | None] | None = None


class BatchSampler:
    """Draws for one fixed list of rows.

    Args:
        rows: the batch, in the order of the logits.
        vocab_size: columns of the logits.
    """

    def __init__(self, rows: Sequence[Row], vocab_size: int, device: torch.device) -> None:
        self.rows = list(rows)
        self.device = device
        self.vocab_size = vocab_size
        every = list(enumerate(self.rows))
        self._logprobs = [i for i, row in every if row.sampling.logprobs is not None]
        self._min_tokens = [i for i, row in every if row.sampling.min_tokens and row.stops]
        self._penalised = [i for i, row in every if _has_penalty(row)]
        self._repetition = [i for i in self._penalised if self.rows[i].sampling.repetition_penalty != 1.0]
        drawn = [i for i, row in every if not row.greedy]
        self._filtered = [i for i in drawn if _is_filtered(self.rows[i])]
        self._plain = [i for i in drawn if not _is_filtered(self.rows[i])]
        self._any_greedy = len(drawn) < len(self.rows)
        self._bias = self._gather_bias()
        self._temperatures = self._column([1.0 if row.greedy else row.sampling.temperature for row in self.rows])
        self._guided = [(i, row.matcher) for i, row in every if row.matcher is not None]
        self._mask = guiding.new_mask(len(self._guided), vocab_size) if self._guided else None
        self._edits = bool(self._penalised or self._min_tokens or self._guided or self._bias is not None)
        self._make_histories()

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).unsqueeze(1)

    def _gather_bias(self) -> tuple[Tensor, Tensor, Tensor] | None:
        entries = [(i, t, b) for i, row in enumerate(self.rows) for t, b in row.sampling.logit_bias.items()]
        if not entries:
            return None
        where, tokens, biases = zip(*entries, strict=True)
        return (
            torch.tensor(where, device=self.device),
            torch.tensor(tokens, device=self.device),
            torch.tensor(biases, dtype=torch.float32, device=self.device),
        )

    def _make_histories(self) -> None:
        """Stack what penalised rows have produced into matrices that rows then view, so that it survives a regroup."""
        self._counts = self._seen = None
        if self._penalised:
            self._counts = torch.zeros(len(self._penalised), self.vocab_size, device=self.device)
            self._presence = self._column([self.rows[i].sampling.presence_penalty for i in self._penalised])
            self._frequency = self._column([self.rows[i].sampling.frequency_penalty for i in self._penalised])
            for at, i in enumerate(self._penalised):
                earlier = self.rows[i].counts
                if earlier is not None:
                    self._counts[at] = earlier
                self.rows[i].counts = self._counts[at]
        if self._repetition:
            self._seen = torch.zeros(len(self._repetition), self.vocab_size, dtype=torch.bool, device=self.device)
            self._penalty = self._column([self.rows[i].sampling.repetition_penalty for i in self._repetition])
            for at, i in enumerate(self._repetition):
                row = self.rows[i]
                if row.seen is not None:
                    self._seen[at] = row.seen
                else:
                    self._seen[at, torch.tensor(row.prompt, device=self.device)] = True
                row.seen = self._seen[at]

    def draw(self, logits: Tensor) -> Draw:
        """`propose` and `keep`."""
        draw = self.propose(logits)
        self.keep(draw)
        return draw

    def propose(self, logits: Tensor) -> Draw:
        """Draw one token per row, without any effect on the rows: a draw that raised can be made again.

        Args:
            logits: [rows, vocab_size], any float type; not changed.
        """
        original = logits.float()
        if self._edits or not self._any_greedy:
            highest, tokens = original.amax(dim=-1), torch.zeros(len(self.rows), dtype=torch.long, device=self.device)
        else:  # the most likely token is wanted anyway; where it stands, its logit costs nothing
            tokens = original.argmax(dim=-1)
            highest = original.gather(1, tokens.unsqueeze(1)).squeeze(1)
        finite = torch.isfinite(highest)  # NaN and +inf win a maximum; a row of only -inf shows as -inf
        bad: list[int] = []
        if not bool(finite.all()):
            bad = to_ints(torch.nonzero(~finite).flatten())
        changed = original
        if self._edits or bad:
            changed = original.clone() if original is logits or self._logprobs else original
            changed[bad] = 0.0
        errors: dict[int, Exception] = {}
        if self._edits:
            self._edit(changed, errors)
            tokens = changed.argmax(dim=-1) if self._any_greedy else tokens
        if self._plain or self._filtered:
            self._draw_random(changed, tokens)
        if bad:
            tokens[bad] = 0
        draw = Draw(tokens, to_ints(tokens), bad, errors)
        if self._logprobs:
            draw.logprobs = self._find_logprobs(original, draw.token_ids, bad)
        return draw

    def keep(self, draw: Draw) -> None:
        """Let the rows go on behind what was proposed last."""
        if self._penalised:
            self._remember(draw.tokens)
        for i in self._plain:
            self.rows[i].spend()
        for i in self._filtered:
            self.rows[i].spend()

    # -- transformations ---------------------------------------------------------------------------------------------

    def _edit(self, logits: Tensor, errors: dict[int, Exception]) -> None:
        """Penalties, bias, guides and minimum length, in place; a guide that raises is noted for its row."""
        if self._seen is not None:  # Keskar et al. 2019, CTRL, section 4.1
            part = logits[self._repetition]
            penalised = torch.where(part > 0, part / self._penalty, part * self._penalty)
            logits[self._repetition] = torch.where(self._seen, penalised, part)
        if self._counts is not None:  # OpenAI's definition: mu - c * frequency - (c > 0) * presence
            logits[self._penalised] -= self._counts * self._frequency + (self._counts > 0) * self._presence
        if self._bias is not None:
            where, tokens, biases = self._bias
            logits.index_put_((where, tokens), biases, accumulate=True)
        if self._mask is not None:
            for at, (i, matcher) in enumerate(self._guided):
                try:
                    matcher.fill(self._mask, at)
                except Exception as error:
                    errors[i], self._mask[at] = error, -1  # every bit: the others' masks stand
            guiding.apply_mask(logits, self._mask, [i for i, _ in self._guided])
        for i in self._min_tokens:
            row = self.rows[i]
            if row.generated < row.sampling.min_tokens:
                self._forbid_stops(logits[i], row)

    def _forbid_stops(self, logits: Tensor, row: Row) -> None:
        """Too early to end, in place; a guide that nothing else would follow comes first."""
        stops = list(row.stops)
        kept = logits[stops]
        logits[stops] = -torch.inf
        if row.matcher is not None and not bool((logits > -torch.inf).any()):
            logits[stops] = kept

    def _remember(self, tokens: Tensor) -> None:
        assert self._counts is not None
        drawn = tokens[self._penalised]
        self._counts[torch.arange(len(drawn), device=self.device), drawn] += 1
        if self._seen is not None:
            drawn = tokens[self._repetition]
            self._seen[torch.arange(len(drawn), device=self.device), drawn] = True

    # -- random draws ------------------------------------------------------------------------------------------------

    def _draw_random(self, logits: Tensor, tokens: Tensor) -> None:
        scaled = logits / self._temperatures
        if self._plain:
            part = scaled if len(self._plain) == len(self.rows) else scaled[self._plain]
            tokens[self._plain] = _inverse_transform(torch.softmax(part, dim=-1), self._uniforms(self._plain))
        if self._filtered:
            part = scaled if len(self._filtered) == len(self.rows) else scaled[self._filtered]
            tokens[self._filtered] = self._draw_filtered(torch.softmax(part, dim=-1), self._filtered)

    def _uniforms(self, rows: list[int]) -> Tensor:
        return torch.tensor([[self.rows[i].uniform()] for i in rows], dtype=torch.float64, device=self.device)

    def _draw_filtered(self, probabilities: Tensor, rows: list[int]) -> Tensor:
        """Draw after top-k, top-p and min-p; whole vocabularies are sorted only for rows that need it."""
        uniforms = self._uniforms(rows)
        params = [self.rows[i].sampling for i in rows]
        size = probabilities.shape[-1]
        first = min(size, CANDIDATES)  # the same for every batch, so that mates cannot change how ties fall
        top_k = self._column([p.top_k if p.top_k > 0 else size for p in params])
        top_p = self._column([p.top_p for p in params])
        min_p = self._column([p.min_p for p in params])
        values, ids = probabilities.topk(first, dim=-1)
        kept = _keep(values, top_k, top_p, min_p)
        drawn = ids.gather(1, _inverse_transform(values * kept, uniforms).unsqueeze(1)).squeeze(1)
        if first < size:
            short = torch.nonzero(kept[:, -1]).flatten()  # even the least likely candidate was kept: more may follow
            if len(short):
                values, ids = probabilities[short].sort(dim=-1, descending=True)
                kept = _keep(values, top_k[short], top_p[short], min_p[short])
                redrawn = _inverse_transform(values * kept, uniforms[short]).unsqueeze(1)
                drawn[short] = ids.gather(1, redrawn).squeeze(1)
        return drawn

    # -- log-probabilities -------------------------------------------------------------------------------------------

    def _find_logprobs(self, logits: Tensor, token_ids: list[int], bad: list[int]) -> list[TokenLogprob | None]:
        found: list[TokenLogprob | None] = [None] * len(self.rows)
        part = logits if len(self._logprobs) == len(self.rows) else logits[self._logprobs]
        normalised = torch.log_softmax(part, dim=-1)
        wanted = max(self.rows[i].sampling.logprobs or 0 for i in self._logprobs)
        drawn = torch.tensor([[token_ids[i]] for i in self._logprobs], device=self.device)
        own = to_floats(normalised.gather(1, drawn).squeeze(1))
        no_pairs: list[tuple[int, float]] = []
        if wanted:
            top_values, top_ids = normalised.topk(min(wanted, self.vocab_size), dim=-1)
            ids, values = to_int_rows(top_ids), to_float_rows(top_values)
            pairs = [list(zip(a, b, strict=True)) for a, b in zip(ids, values, strict=True)]
        else:
            pairs = [no_pairs for _ in self._logprobs]
        for at, i in enumerate(self._logprobs):
            if i not in bad:
                found[i] = TokenLogprob(token_ids[i], own[at], tuple(pairs[at][: self.rows[i].sampling.logprobs or 0]))
        return found


def _has_penalty(row: Row) -> bool:
    s = row.sampling
    return s.repetition_penalty != 1.0 or s.presence_penalty != 0.0 or s.frequency_penalty != 0.0


def _is_filtered(row: Row) -> bool:
    s = row.sampling
    return s.top_p < 1.0 or s.top_k > 0 or s.min_p > 0.0


def _keep(values: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which of the sorted probabilities stay; always at least the first.

    Args:
        values: [rows, n] descending.
        top_k, top_p, min_p: [rows, 1]; neutral values keep all.
    """
    rank = torch.arange(values.shape[-1], device=values.device)
    inside = values >= min_p * values[:, :1]  # relative to the most likely token
    inside &= rank < top_k
    left = torch.where(rank < top_k, values, 0.0)
    mass = left.cumsum(dim=-1)
    # Nucleus of Holtzman et al. 2020: the smallest set whose mass, among what top-k left, reaches top_p.
    inside &= (mass - left) < top_p * _total(values, top_k, mass)
    inside &= values > 0
    inside[:, 0] = True
    return inside


def _total(values: Tensor, top_k: Tensor, mass: Tensor) -> Tensor:
    """Mass top-p refers to: what top-k left where it cuts inside the candidates, else all of it."""
    return torch.where(top_k <= values.shape[-1], mass[:, -1:], torch.ones_like(mass[:, -1:]))


def _inverse_transform(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Index drawn from unnormalised weights by inverting their distribution function.

    Args:
        weights: [rows, n], not negative.
        uniforms: [rows, 1] float64 in [0, 1).

    Returns:
        [rows] int64; never an index of weight 0.
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    drawn = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True).squeeze(1)
    return drawn.clamp_(max=weights.shape[-1] - 1)


def check(row: Row, vocab_size: int) -> OpenLLMError | None:
    """What of a request this model cannot do; None when all is well."""
    outside = [t for t in row.prompt if not 0 <= t < vocab_size]
    if outside:
        return InvalidSamplingParams(f"Token id {outside[0]} is not in the vocabulary of {vocab_size}.", param="prompt")
    biased = [t for t in row.sampling.logit_bias if not 0 <= t < vocab_size]
    if biased:
        return InvalidSamplingParams(
            f"logit_bias names token id {biased[0]}; the vocabulary has {vocab_size}.", param="logit_bias"
        )
    return None
