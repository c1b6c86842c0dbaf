#!/usr/bin/env python3
"""Do two servers of the same model say the same? 40 fixed prompts, 64 greedy tokens each, over /v1/completions.

    python3 tools/parity.py http://127.0.0.1:3000 http://127.0.0.1:3001 [--json FILE]

Two backends add numbers in another order, so where two tokens are all but equally likely either may win, and what follows
differs. A prompt is therefore compared up to its first near-tie: the first place where the two most likely tokens are
less than 0.05 apart in log-probability on both servers. Exit code 0 when at least 95 % of the prompts agree and at most
30 % were cut within their first 16 tokens. Uses the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOKENS = 64
TIE = 0.05  # gap of log-probabilities under which two tokens count as equally likely
AGREE = 0.95
EARLY_TOKENS, MOST_EARLY = 16, 0.3

OPENINGS = (
    "Explain in simple words what {} is.", "Write a short story about {}.", "List three facts about {}:\n1.",
    "Question: Why is {} important?\nAnswer:", "The history of {} began when",
)  # fmt: skip
TOPICS = ("the sun", "a bicycle", "photosynthesis", "chess", "the ocean", "a library", "bread", "the telephone")
PROMPTS = [opening.format(topic) for topic in TOPICS for opening in OPENINGS]


@dataclass
class Answer:
    """One completion: token texts, how likely each was, and how far ahead of the next one."""

    tokens: list[str]
    gaps: list[float]
    finish_reason: str
    usage: dict[str, Any]


@dataclass
class Comparison:
    """Two answers to one prompt.

    Attributes:
        agreed: same tokens up to the first near-tie; without one also the same finish reason and usage.
        cut: tokens up to the first near-tie; None where there is none before the end.
    """

    prompt: str
    agreed: bool
    cut: int | None
    differs_at: int | None


def ask(url: str, model: str, prompt: str) -> Answer:
    """The greedy completion of a prompt by one server."""
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 2}
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.load(response)
    choice = answer["choices"][0]
    gaps: list[float] = []
    for top in choice["logprobs"]["top_logprobs"]:
        ranked = sorted(top.values(), reverse=True)
        gaps.append(ranked[0] - ranked[1] if len(ranked) > 1 else 0.0)
    return Answer(choice["logprobs"]["tokens"], gaps, choice["finish_reason"], answer["usage"])


def compare(prompt: str, one: Answer, two: Answer) -> Comparison:
    """Hold two answers against each other up to the first near-tie."""
    for place, (first, second) in enumerate(zip(one.tokens, two.tokens, strict=False)):
        if one.gaps[place] < TIE and two.gaps[place] < TIE:
            return Comparison(prompt, True, place, None)
        if first != second:
            return Comparison(prompt, False, None, place)
    same_end = (one.finish_reason, one.usage, len(one.tokens)) == (two.finish_reason, two.usage, len(two.tokens))
    return Comparison(prompt, same_end, None, None if same_end else min(len(one.tokens), len(two.tokens)))


def run(urls: list[str]) -> list[Comparison]:
    """All prompts on both servers."""
    answers: list[list[Answer]] = []
    for url in urls:
        with urllib.request.urlopen(url + "/v1/models", timeout=60) as response:
            model = json.load(response)["data"][0]["id"]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:  # in one batch: the weights are read once a token for all
            answers.append(list(pool.map(lambda prompt, url=url, model=model: ask(url, model, prompt), PROMPTS)))
    return [compare(prompt, one, two) for prompt, one, two in zip(PROMPTS, *answers, strict=True)]


def verdict(found: list[Comparison]) -> tuple[bool, str]:
    """Whether the two agree well enough, and the line that says how well."""
    agreed = sum(c.agreed for c in found)
    cuts = [c.cut for c in found if c.cut is not None]
    early = sum(cut < EARLY_TOKENS for cut in cuts)
    where = f", at tokens {sorted(cuts)}" if cuts else ""
    line = (
        f"{agreed} of {len(found)} prompts agree over {TOKENS} tokens; {len(cuts)} of them up to a near-tie{where}; "
        f"{early} cut within {EARLY_TOKENS} tokens"
    )
    return agreed >= AGREE * len(found) and early <= MOST_EARLY * len(found), line


def main(argv: list[str]) -> int:
    """Compare, print, and say by the exit code whether they agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", nargs=2)
    parser.add_argument("--json", type=Path, help="write each prompt's comparison here")
    arguments = parser.parse_args(argv)
    found = run([url.rstrip("/") for url in arguments.url])
    good, line = verdict(found)
    for one in found:
        if not one.agreed:
            print(f"differs at token {one.differs_at}: {one.prompt!r}")
    print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
