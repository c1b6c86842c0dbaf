"""Keys and values of the running rows, in one window of columns that all rows share.

Rows are right-aligned: every row's newest token stands in the same column, so a decode step writes one column and reads
columns [first, end). A row that joins is copied in so that it ends where the others end; a row that leaves is replaced
by the last one. Called by `lanes`; transformers sees it as a Cache. Knows nothing of requests.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .untyped import keys_and_values

CHUNK = 64  # columns are made in multiples of this many
ROOM = 256  # columns kept free on the left when a window is made, so that a longer prompt can join without a move


class WindowLayer(CacheLayerMixin):
    """One layer's part: `store_*` are [row capacity, num_kv_heads, column capacity, head_dim]."""

    is_sliding = False

    def __init__(self, window: Window, keys: Tensor, values: Tensor) -> None:
        cast(Any, super()).__init__()
        self.window = window
        self.store_keys, self.store_values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: a window layer is made whole."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column of the rows that step; return the columns in use, that one included."""
        window = self.window
        rows, end = window.stepping or slice(0, window.rows), window.end
        self.store_keys[rows, :, end : end + 1] = key_states
        self.store_values[rows, :, end : end + 1] = value_states
        self.keys = self.store_keys[rows, :, window.first : end + 1]
        self.values = self.store_values[rows, :, window.first : end + 1]
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns in use with the new ones, 0)."""
        return self.window.span + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.window.span

    def get_max_length(self) -> int:
        """No bound: `Window` makes room before each step."""
        return -1


class Window(Cache):
    """The cache of one lane.

    Attributes:
        rows: rows in use.
        stepping: those that the forward pass under way computes, where not all do.
        first, end: columns in use; every row's newest token is in column end - 1.
        starts: first column of each row.
        mask: [row capacity, column capacity] bool; True where a row has a token (and in all later columns).
    """

    def __init__(self, max_rows: int) -> None:
        self.window_layers: list[WindowLayer] = []
        super().__init__(layers=cast("list[Any]", self.window_layers))
        self.max_rows = max_rows
        self.rows = self.first = self.end = 0
        self.stepping: slice | None = None
        self.starts: list[int] = []
        self.row_capacity: int = 0
        self.column_capacity: int = 0
        self.mask = torch.empty(0, 0, dtype=torch.bool)

    @property
    def span(self) -> int:
        """Columns in use."""
        return self.end - self.first

    @property
    def columns(self) -> slice:
        """The columns the next step reads, its own included."""
        return slice(self.first, self.end + 1)

    def join(self, source: Cache, picks: list[tuple[int, int]], ahead: int) -> None:
        """Copy rows of a prefilled cache in.

        Args:
            source: layers of keys and values, [batch, num_kv_heads, seq_len, head_dim], right-aligned.
            picks: (row of source, tokens it has) for each row to take.
            ahead: columns that will probably be needed after these.
        """
        longest = max(length for _, length in picks)
        if not self.rows:
            self.first = self.end = max(longest, min(ROOM, self.column_capacity - 1))
        prompts = keys_and_values(source)
        self._make_room(len(picks), longest, ahead, prompts)
        for row, length in picks:
            into = self.rows
            start = self.end - length
            for layer, (keys, values) in zip(self.window_layers, prompts, strict=True):
                layer.store_keys[into, :, start : self.end] = keys[row, :, -length:]
                layer.store_values[into, :, start : self.end] = values[row, :, -length:]
            self.mask[into, :start] = False
            self.mask[into, start:] = True
            self.starts.append(start)
            self.rows += 1
        first = min(self.starts)
        joined = range(self.rows - len(picks), self.rows)
        for row in range(self.rows):
            # What a mask hides still takes part in the products, as 0 * x: x must be a number.
            self._zero(row, slice(first, self.starts[row] if row in joined else max(first, self.first)))
        self.first = first

    def _zero(self, row: int, columns: slice) -> None:
        if columns.start < columns.stop:
            for layer in self.window_layers:
                layer.store_keys[row, :, columns] = 0
                layer.store_values[row, :, columns] = 0

    def leave(self, row: int) -> None:
        """Free a row; the last one takes its place."""
        last = self.rows - 1
        if row != last:
            start = self.starts[last]
            for layer in self.window_layers:
                layer.store_keys[row, :, start : self.end] = layer.store_keys[last, :, start : self.end]
                layer.store_values[row, :, start : self.end] = layer.store_values[last, :, start : self.end]
            self._zero(row, slice(self.first, start))
            self.mask[row] = self.mask[last]
            self.starts[row] = start
        self.starts.pop()
        self.rows = last
        self.first = min(self.starts, default=self.end)

    def advance(self) -> None:
        """The step that wrote column `end` is done."""
        self.end += 1

    def make_column(self) -> None:
        """Make sure that column `end` exists; where memory for it lacks, all is as before."""
        if self.end >= self.column_capacity:
            free_left = self.first
            if free_left >= max(CHUNK, self.column_capacity // 2):
                self._reallocate(self.row_capacity, self.column_capacity, -free_left)
            else:
                self._reallocate(self.row_capacity, self.column_capacity + max(CHUNK, self.column_capacity // 2), 0)

    @property
    def allocated_bytes(self) -> int:
        """Size of the stores."""
        return sum(
            store.numel() * store.element_size()
            for layer in self.window_layers
            for store in (layer.store_keys, layer.store_values)
        )

    def _make_room(self, rows: int, longest: int, ahead: int, prompts: list[tuple[Tensor, Tensor]]) -> None:
        if not self.window_layers:
            self._make_layers(rows, ahead, prompts)
        shift = max(0, longest - self.end)
        need_rows, need_columns = self.rows + rows, self.end + shift + 1
        if need_rows <= self.row_capacity and need_columns <= self.column_capacity and not shift:
            return
        row_capacity = self.row_capacity
        if need_rows > row_capacity:
            row_capacity = min(max(need_rows, row_capacity * 2), max(self.max_rows, need_rows))
        columns = max(self.column_capacity, _round_up(need_columns + ahead))
        self._reallocate(row_capacity, columns, _round_up(shift) if shift else 0)

    def _make_layers(self, rows: int, ahead: int, prompts: list[tuple[Tensor, Tensor]]) -> None:
        self.row_capacity = min(max(rows, 4), max(self.max_rows, rows))
        self.column_capacity = _round_up(self.end + 1 + ahead)
        for pair in prompts:
            keys, values = (
                t.new_empty((self.row_capacity, t.shape[1], self.column_capacity, t.shape[3])) for t in pair
            )
            self.window_layers.append(WindowLayer(self, keys, values))
        self.mask = torch.zeros(self.row_capacity, self.column_capacity, dtype=torch.bool, device=prompts[0][0].device)

    def _reallocate(self, row_capacity: int, columns: int, shift: int) -> None:
        """Move everything into new stores, columns moved right by `shift` (left where negative); layer by layer, so
        that only one layer is there twice."""
        columns = max(columns, _round_up(self.end + shift + 1))
        rows, old, new = self.rows, slice(self.first, self.end), slice(self.first + shift, self.end + shift)
        mask = torch.zeros(row_capacity, columns, dtype=torch.bool, device=self.mask.device)
        moved: list[WindowLayer] = []
        try:
            for layer in self.window_layers:
                layer.keys = layer.values = None
                keys = _moved(layer.store_keys, row_capacity, columns, rows, old, new)
                values = _moved(layer.store_values, row_capacity, columns, rows, old, new)
                layer.store_keys, layer.store_values = keys, values
                moved.append(layer)
        except BaseException:  # no memory for the next layer: those that were moved go back, so that all are alike
            for layer in moved:
                layer.store_keys = _moved(layer.store_keys, self.row_capacity, self.column_capacity, rows, new, old)
                layer.store_values = _moved(layer.store_values, self.row_capacity, self.column_capacity, rows, new, old)
            raise
        self.row_capacity, self.column_capacity = row_capacity, columns
        self.first, self.end = new.start, new.stop
        self.starts = [start + shift for start in self.starts]
        self.mask = mask
        for row, start in enumerate(self.starts):
            self.mask[row, start:] = True


def _moved(store: Tensor, rows: int, columns: int, used: int, old: slice, new: slice) -> Tensor:
    moved = store.new_empty((rows, store.shape[1], columns, store.shape[3]))
    moved[:used, :, new] = store[:used, :, old]
    return moved


def _round_up(columns: int) -> int:
    return -(-columns // CHUNK) * CHUNK
