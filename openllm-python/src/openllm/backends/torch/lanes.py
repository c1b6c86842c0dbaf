"""Lanes: the running batches. A lane's rows take every decode step together; rows join and leave between steps.

`WindowLane` runs rows of different length over one shared window, decoder-only or encoder-decoder; `SoloLane` runs one
row on the model's own cache, for architectures whose state cannot share a window. Called by `scheduler`. Knows nothing
of sampling parameters or of how requests arrive.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import attrs
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from .model import LoadedModel
from .rows import Row
from .sampling import BatchSampler
from .untyped import keys_and_values
from .window import Window

AHEAD = 512  # columns of future tokens a window is made for at once, where a row may need as many


@attrs.frozen(kw_only=True, eq=False)
class Prefilled:
    """Prompts that were just computed, ready to join a lane.

    Attributes:
        cache: their keys and values, right-aligned.
        lengths: tokens of each row of the cache (of the decoder, for seq2seq).
        encoder_lengths: tokens of each prompt; seq2seq only.
    """

    cache: Cache
    lengths: list[int]
    encoder_lengths: list[int] = attrs.field(factory=list)


class Lane(Protocol):
    """A batch of rows that step together.

    Attributes:
        repeats: whether a step that raised can be taken again, by all rows or a part of them.
    """

    rows: list[Row]
    repeats: bool

    def padding(self, length: int) -> int | None:
        """Columns that would be read for nothing if a row of `length` tokens joined; None when it cannot join."""
        ...

    def join(self, rows: list[Row], source: Prefilled, picks: list[int], tokens: list[int]) -> None:
        """Add rows: `picks` are their rows in `source`, `tokens` their first drawn tokens."""
        ...

    def step(self, part: slice | None = None) -> Tensor:
        """One decode step; logits [rows, vocab_size].

        It counts only once its tokens are fed: until then it can be taken again, where the lane `repeats`.
        """
        ...

    def feed(self, tokens: Tensor) -> None:
        """The tokens drawn from the last step's logits, [rows] int64: the step is done."""
        ...

    def sampler(self) -> BatchSampler:
        """The sampler of the present rows."""
        ...

    def leave(self, rows: list[int]) -> None:
        """Drop rows by position; the order of the others may change."""
        ...


class _Sampled:
    """Keeps the sampler until the rows change."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._sampler: BatchSampler | None = None

    def sampler(self) -> BatchSampler:
        """The sampler of the present rows."""
        if self._sampler is None:
            self._sampler = BatchSampler(self.rows, self.model.vocab_size, self.model.device)
        return self._sampler


class WindowLane(_Sampled):
    """Rows of different length over one right-aligned window.

    Args:
        max_rows: rows it may ever hold.
    """

    repeats = True

    def __init__(self, model: LoadedModel, max_rows: int) -> None:
        super().__init__(model)
        self.max_rows = max_rows
        self.window = Window(max_rows)
        self.cross = CrossCache(max_rows) if model.seq2seq else None
        self._tokens = torch.zeros(max_rows, 1, dtype=torch.long, device=model.device)
        self._positions = torch.zeros(max_rows, 1, dtype=torch.long, device=model.device)

    def padding(self, length: int) -> int | None:
        """See `Lane.padding`."""
        if len(self.rows) >= self.max_rows:
            return None
        span = self.window.span
        return (length - span) * len(self.rows) if length > span else span - length

    def join(self, rows: list[Row], source: Prefilled, picks: list[int], tokens: list[int]) -> None:
        """See `Lane.join`."""
        cache = source.cache
        ahead = min(AHEAD, max(row.limit for row in rows))
        lengths = [(pick, source.lengths[pick]) for pick in picks]
        if isinstance(cache, EncoderDecoderCache):
            assert self.cross is not None
            self.cross.join(cache.cross_attention_cache, [(pick, source.encoder_lengths[pick]) for pick in picks])
            try:
                self.window.join(cache.self_attention_cache, lengths, ahead)
            except BaseException:  # no memory: both hold the same rows again
                for _ in picks:
                    self.cross.leave(len(self.cross.lengths) - 1)
                raise
        else:
            self.window.join(cache, lengths, ahead)
        at = slice(len(self.rows), len(self.rows) + len(rows))
        device = self.model.device
        self._tokens[at, 0] = torch.tensor(tokens, device=device)
        self._positions[at, 0] = torch.tensor([source.lengths[pick] for pick in picks], device=device)
        self.rows += rows
        self._sampler = None

    def step(self, part: slice | None = None) -> Tensor:
        """See `Lane.step`."""
        rows, window = part or slice(0, len(self.rows)), self.window
        window.make_column()
        window.stepping = part
        ids, mask = self._tokens[rows], window.mask[rows, window.columns]
        if self.cross is not None:
            encoder_mask = self.cross.show(rows)
            return self.model.decode_seq2seq(ids, mask, encoder_mask, EncoderDecoderCache(window, self.cross))
        return self.model.decode(ids, mask, self._positions[rows], window)

    def feed(self, tokens: Tensor) -> None:
        """See `Lane.feed`."""
        self._tokens[: len(tokens), 0] = tokens
        self._positions[: len(tokens)] += 1
        self.window.advance()

    def leave(self, rows: list[int]) -> None:
        """See `Lane.leave`."""
        for row in sorted(rows, reverse=True):
            last = len(self.rows) - 1
            self.window.leave(row)
            if self.cross is not None:
                self.cross.leave(row)
            if row != last:
                self._tokens[row] = self._tokens[last]
                self._positions[row] = self._positions[last]
                self.rows[row] = self.rows[last]
            self.rows.pop()
        self._sampler = None


class CrossCache(Cache):
    """Cross-attention keys and values of the rows of a lane, left-aligned: a prompt never grows."""

    def __init__(self, max_rows: int) -> None:
        self._shown: list[DynamicLayer] = []
        super().__init__(layers=cast("list[Any]", self._shown))
        self.max_rows = max_rows
        self.lengths: list[int] = []
        self._stores: list[tuple[Tensor, Tensor]] = []
        self._mask = torch.zeros(0, 0, dtype=torch.bool)

    def join(self, source: Cache, picks: list[tuple[int, int]]) -> None:
        """Copy rows in: (row of source, prompt length) each."""
        prompts = keys_and_values(source)
        need_rows = len(self.lengths) + len(picks)
        need_columns = max(length for _, length in picks)
        if need_rows > self._mask.shape[0] or need_columns > self._mask.shape[1]:
            self._grow(min(2 * need_rows, max(self.max_rows, need_rows)), need_columns, prompts)
        for row, length in picks:
            into = len(self.lengths)
            for (keys, values), (new_keys, new_values) in zip(self._stores, prompts, strict=True):
                keys[into, :, :length] = new_keys[row, :, :length]
                values[into, :, :length] = new_values[row, :, :length]
                keys[into, :, length:] = values[into, :, length:] = 0
            self._mask[into] = torch.arange(self._mask.shape[1], device=self._mask.device) < length
            self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Free a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for keys, values in self._stores:
                keys[row], values[row] = keys[last], values[last]
            self._mask[row] = self._mask[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def show(self, rows: slice) -> Tensor:
        """Point the layers at rows in use; return their mask, [rows, longest prompt] bool."""
        columns = max(self.lengths)
        for layer, (keys, values) in zip(self._shown, self._stores, strict=True):
            layer.keys, layer.values = keys[rows, :, :columns], values[rows, :, :columns]
        return self._mask[rows, :columns]

    def _grow(self, rows: int, columns: int, prompts: list[tuple[Tensor, Tensor]]) -> None:
        rows, columns = max(rows, self._mask.shape[0]), max(columns, self._mask.shape[1])
        if not self._stores:
            self._shown += [DynamicLayer() for _ in prompts]
            for layer in self._shown:
                layer.is_initialized = True
        old = self._stores or [None] * len(prompts)
        self._stores = [
            (_grown(keys, before and before[0], rows, columns), _grown(values, before and before[1], rows, columns))
            for (keys, values), before in zip(prompts, old, strict=True)
        ]
        mask = torch.zeros(rows, columns, dtype=torch.bool, device=prompts[0][0].device)
        mask[: self._mask.shape[0], : self._mask.shape[1]] = self._mask
        self._mask = mask


def _grown(example: Tensor, old: Tensor | None, rows: int, columns: int) -> Tensor:
    store = example.new_zeros((rows, example.shape[1], columns, example.shape[3]))
    if old is not None:
        store[: old.shape[0], :, : old.shape[2]] = old
    return store


class SoloLane(_Sampled):
    """One row on the cache the architecture itself makes, which keeps what a step that raised has written."""

    repeats = False

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self._source: Prefilled | None = None
        self._tokens = torch.zeros(1, 1, dtype=torch.long, device=model.device)

    def padding(self, length: int) -> int | None:
        """See `Lane.padding`."""
        return None if self.rows else 0

    def join(self, rows: list[Row], source: Prefilled, picks: list[int], tokens: list[int]) -> None:
        """See `Lane.join`; exactly one row, prefilled alone."""
        assert len(rows) == 1 and not self.rows and len(source.lengths) == 1
        self.rows, self._source, self._sampler = list(rows), source, None
        self._tokens[0, 0] = tokens[0]

    def step(self, part: slice | None = None) -> Tensor:
        """See `Lane.step`."""
        assert self._source is not None
        cache = self._source.cache
        if isinstance(cache, EncoderDecoderCache):
            mask = torch.ones(1, self._source.encoder_lengths[0], dtype=torch.bool, device=self.model.device)
            return self.model.decode_seq2seq(self._tokens, None, mask, cache)
        return self.model.decode(self._tokens, None, None, cache)

    def feed(self, tokens: Tensor) -> None:
        """See `Lane.feed`."""
        self._tokens[0, 0] = tokens[0]

    def leave(self, rows: list[int]) -> None:
        """See `Lane.leave`."""
        if rows:
            self.rows, self._source, self._sampler = [], None, None
