"""Embeddings: mean-pooled, normalised, the same in a batch as alone."""

from __future__ import annotations

import math

import pytest
from tests.openllm.backends.torch.conftest import MakeScheduler

from openllm.backends.torch import embedding

TEXTS = [[5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9], [42]]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_embeddings(name: str, make_scheduler: MakeScheduler) -> None:
    """Each text's vector has length one, does not depend on its batch, and differs from the others'."""
    model = make_scheduler(name).model
    together = embedding.embed(model, TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert math.sqrt(sum(x * x for x in vector)) == pytest.approx(1.0, abs=1e-5)
        assert embedding.embed(model, [text])[0] == pytest.approx(vector, abs=1e-5)
    assert together[0] != pytest.approx(together[1], abs=1e-2)
