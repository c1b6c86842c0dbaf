"""What is asked: questions of uneven length, or text of a wanted number of tokens.

Used by `endpoint` and by the measuring tools. No tokenizer is needed: the server's own count of two probes tells how many
words make how many tokens.
"""

from __future__ import annotations

import random

_SUBJECTS = (
    "the water cycle", "how a bicycle stays upright", "why the sky is blue", "the rules of chess in short",
    "what a compiler does", "how bread rises", "the causes of tides", "how vaccines work",
)  # fmt: skip
_FORMS = (
    "Explain {} to a ten year old.",
    "Write a short story in which {} matters to the hero, and let it end well.",
    "List five surprising facts about {}. Give one sentence of explanation for each of them and keep the tone calm.",
    "I am preparing a lesson about {} for a class of thirty curious students who have never heard of it before. "
    "Suggest an opening question, a demonstration that needs only things found in a kitchen, and a closing exercise.",
)
PROMPTS: list[str] = [form.format(subject) for subject in _SUBJECTS for form in _FORMS]
"""32 questions, so that a batch of them is ragged."""

_WORDS = (
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were",
    "all", "her", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "no", "more",
    "if", "out", "so", "up", "said", "what", "its", "about", "than", "into", "them", "can", "only", "other", "time",
    "new", "some", "could", "these", "two", "may", "first", "then", "do", "any", "like", "my", "now", "over", "such",
    "our", "man", "me", "even", "most", "made", "after", "also", "did", "many", "off", "before", "must", "well",
    "back", "through", "years", "much", "where", "your", "way", "down", "should", "because", "long", "each", "just",
    "state", "people", "those", "too", "world",
)  # fmt: skip

PROBE_WORDS = (16, 272)
"""Lengths of the two texts by which words are related to tokens."""


def text_of(words: int, seed: int) -> str:
    """Common words in an order of their own per seed, so that no cache of prefixes knows them."""
    return " ".join(random.Random(seed).choices(_WORDS, k=max(1, words)))


def words_for(tokens: int, counts: tuple[int, int]) -> int:
    """How many words make a prompt of `tokens` tokens.

    Args:
        counts: prompt tokens the server counted for texts of `PROBE_WORDS` words, template included; the second larger.
    """
    per_word = (counts[1] - counts[0]) / (PROBE_WORDS[1] - PROBE_WORDS[0])
    fixed = counts[0] - per_word * PROBE_WORDS[0]
    return max(1, round((tokens - fixed) / per_word))


class Questions:
    """`question(i)` is the prompt of the i-th request: one of `PROMPTS`, or random text where `words` is given."""

    def __init__(self, words: int | None = None, seed: int = 0) -> None:
        self.words = words
        self.seed = seed

    def question(self, number: int) -> str:
        """The prompt of a request."""
        if self.words is None:
            return PROMPTS[number % len(PROMPTS)]
        return text_of(self.words, self.seed * 1_000_003 + number)
