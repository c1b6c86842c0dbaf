"""Notes by how near they are to a question: `python search.py QUESTION`."""

from __future__ import annotations

import os
import sys

from openllm_client import HTTPClient

NOTES = ["The library opens at nine.", "Bread is baked before dawn.", "Trains to the coast leave every hour."]


def cosine(one: list[float], other: list[float]) -> float:
    """Of vectors of length one."""
    return sum(a * b for a, b in zip(one, other, strict=True))


question = sys.argv[1] if len(sys.argv) > 1 else "When can I borrow a book?"
with HTTPClient(os.environ.get("OPENLLM_ENDPOINT", "http://localhost:3000")) as client:
    *notes, asked = client.embed([*NOTES, question]).embeddings
for note, vector in sorted(zip(NOTES, notes, strict=True), key=lambda pair: -cosine(pair[1], asked)):
    print(f"{cosine(vector, asked):.2f}  {note}")
