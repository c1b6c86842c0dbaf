"""The test by which `tools/bench_prefixes.py` tells two samples of times apart."""

from __future__ import annotations

import random

from tools.bench_prefixes import p_of


def test_what_comes_from_one_distribution_cannot_be_told_apart() -> None:
    """p is above 0.01 in about 99 of 100 pairs of samples, and 1 for a sample and itself."""
    draw = random.Random(7)
    pairs = [[[draw.gauss(1, 0.1) for _ in range(60)] for _ in range(2)] for _ in range(200)]
    assert 0.96 <= sum(p_of(*pair) > 0.01 for pair in pairs) / len(pairs) <= 1
    assert p_of(pairs[0][0], pairs[0][0]) == 1


def test_what_is_slower_is_told() -> None:
    """By a standard deviation, with sixty samples of each."""
    draw = random.Random(7)
    quick, slow = ([draw.gauss(mean, 0.1) for _ in range(60)] for mean in (1.0, 1.1))
    assert p_of(quick, slow) < 0.001
