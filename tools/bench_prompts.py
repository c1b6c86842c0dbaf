"""The 32 questions every measurement of this repository uses, of uneven length so that a batch of them is ragged."""

from __future__ import annotations

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
