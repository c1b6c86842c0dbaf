"""The shared window of keys and values: rows of any length join, grow, move and leave without touching one another."""

from __future__ import annotations

import torch
from tests.openllm.backends.torch.conftest import MakeScheduler
from tests.openllm.backends.torch.drive import request, run, tokens, tokens_of
from transformers.cache_utils import DynamicCache

from openllm.backends.base import StepOutput
from openllm.backends.torch.lanes import WindowLane
from openllm.backends.torch.window import Window

LAYERS, HEADS, DIM = 2, 2, 4


def prompt_cache(*lengths: int, mark: float) -> DynamicCache:
    """A prefilled cache in which token i of a row has the value mark + i everywhere; padding is NaN."""
    cache, longest = DynamicCache(), max(lengths)
    states = torch.full((len(lengths), HEADS, longest, DIM), torch.nan)
    for row, length in enumerate(lengths):
        states[row, :, longest - length :] = (mark + torch.arange(length)).view(1, length, 1)
    for layer in range(LAYERS):
        cache.update(states + 100 * layer, -states - 100 * layer, layer)
    return cache


def step(window: Window, marks: list[float]) -> None:
    """Write one token per row and check that all that masks hide is finite."""
    window.make_column()
    states = torch.tensor(marks).view(-1, 1, 1, 1).expand(-1, HEADS, 1, DIM)
    for layer in range(LAYERS):
        keys, values = window.update(states + 100 * layer, -states - 100 * layer, layer)
        assert torch.isfinite(keys).all() and torch.isfinite(values).all()
    window.advance()


def row_values(window: Window, row: int) -> list[float]:
    """Marks of the tokens one row holds, after checking layers, keys and values against each other."""
    mask = window.mask[row, window.first : window.end]
    rows = []
    for layer, store in enumerate(window.window_layers):
        held = store.store_keys[row, :, window.first : window.end][:, mask] - 100 * layer
        assert torch.equal(held, -(store.store_values[row, :, window.first : window.end][:, mask] + 100 * layer))
        assert (held == held[:1, :, :1]).all()
        rows.append(held[0, :, 0].tolist())
    assert rows[0] == rows[1]
    return rows[0]


def test_join_aligns_rows_at_their_newest_token() -> None:
    """Rows of unlike length end in one column, and each holds its own tokens."""
    window = Window(8)
    window.join(prompt_cache(3, 5, mark=10), [(0, 3), (1, 5)], 16)
    assert row_values(window, 0) == [10, 11, 12]
    assert row_values(window, 1) == [10, 11, 12, 13, 14]
    assert window.span == 5


def test_longer_prompt_than_there_is_room_for_moves_the_others() -> None:
    """A prompt longer than all columns used so far joins; the rows already there keep what they hold."""
    window = Window(8)
    window.join(prompt_cache(3, mark=10), [(0, 3)], 1)
    step(window, [50])
    window.join(prompt_cache(400, mark=1000), [(0, 400)], 1)
    step(window, [51, 52])
    assert row_values(window, 0) == [10, 11, 12, 50, 51]
    assert row_values(window, 1) == [*range(1000, 1400), 52]


def test_growth_and_compaction() -> None:
    """Hundreds of steps grow the window; once the long row left, its columns are used again instead of growing on."""
    window = Window(4)
    window.join(prompt_cache(200, 2, mark=0), [(0, 200), (1, 2)], 8)
    for at in range(100):
        step(window, [1000 + at, 2000 + at])
    assert row_values(window, 0) == [*range(200), *range(1000, 1100)]
    window.leave(0)
    assert row_values(window, 0) == [0, 1, *range(2000, 2100)]
    window.leave(0)
    largest = 0
    for round_ in range(12):
        window.join(prompt_cache(30, mark=0), [(0, 30)], 8)
        for at in range(60):
            step(window, [at] * window.rows)
        if window.rows > 1:
            window.leave(0)
        largest = max(largest, window.column_capacity)
        assert row_values(window, window.rows - 1)[:30] == list(range(30)), round_
    assert largest <= 640


def test_leaving_moves_the_last_row_into_the_hole() -> None:
    """Any row may leave at any time; the others keep their tokens, and freed rows are used again."""
    window = Window(8)
    window.join(prompt_cache(3, 6, 2, mark=10), [(0, 3), (1, 6), (2, 2)], 8)
    step(window, [70, 71, 72])
    window.leave(0)
    assert window.rows == 2
    assert row_values(window, 0) == [10, 11, 72]
    assert row_values(window, 1) == [10, 11, 12, 13, 14, 15, 71]
    window.leave(1)
    step(window, [80])
    assert row_values(window, 0) == [10, 11, 72, 80]
    assert window.span == 4
    window.join(prompt_cache(1, mark=90), [(0, 1)], 8)
    step(window, [81, 91])
    assert row_values(window, 1) == [90, 91]


def test_an_empty_window_starts_over() -> None:
    """When the last row has left, a new one finds a window without leftovers."""
    window = Window(2)
    window.join(prompt_cache(5, mark=0), [(0, 5)], 4)
    window.leave(0)
    window.join(prompt_cache(3, mark=40), [(0, 3)], 4)
    step(window, [1])
    assert row_values(window, 0) == [40, 41, 42, 1]


def test_a_long_row_gets_a_lane_of_its_own(make_scheduler: MakeScheduler) -> None:
    """One long prompt among short ones does not make each of them read its columns."""
    scheduler = make_scheduler(lane_cost=64)
    short = [request(f"s{at}", [5 + at, 6], max_tokens=30) for at in range(4)]
    long = request("long", [1 + i % 300 for i in range(150)], max_tokens=30)
    late = request("late", [9, 9, 9], max_tokens=5)
    outputs: list[StepOutput] = []
    for arriving, sizes in ((short, [4]), ([long], [1, 4]), ([late], [1, 5])):
        for one in arriving:
            scheduler.add(one)
        outputs.append(scheduler.step())
        assert sorted(len(lane.rows) for lane in scheduler.lanes) == sizes
    assert all(isinstance(lane, WindowLane) for lane in scheduler.lanes)
    outputs += run(scheduler)
    alone = make_scheduler()
    assert tokens_of(outputs) == {one.request_id: tokens(alone, one)[one.request_id] for one in [*short, long, late]}
