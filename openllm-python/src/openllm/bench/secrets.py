"""A command line as it may be published: what a flag or variable of a telling name carries is left out.

Used for the words that were typed and for those of the servers that a measurement starts; both stand in every result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "…"
CARRIERS = ("--peer-arg", "--serve-arg")
"""Flags whose value is a word of another command line."""
_TELLING = re.compile(r"^-.*(key|token|secret|password|passwd|credentials?)s?$", re.IGNORECASE)
_NO_SECRET = re.compile(r"max|num|input|output|tokenizer|file$|tokens$", re.IGNORECASE)


def is_telling(name: str) -> bool:
    """Whether what follows a flag, or what a variable holds, is a secret; `--max-tokens` is not such a flag."""
    return bool(_TELLING.match(name if name.startswith("-") else f"-{name}")) and not _NO_SECRET.search(name)


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words with `…` for each secret: the value of a telling flag, behind it or after `=`, and of each --header."""
    shown: list[str] = []
    flag = ""  # whose value the next word is
    for word in words:
        carrier = next((c for c in CARRIERS if word == c or word.startswith(c + "=")), "")
        if word == carrier and word:
            shown.append(word)
            continue
        lead = f"{carrier}=" if carrier else ""
        body = word.removeprefix(lead)
        name, equals, value = body.partition("=")
        if flag == "--header":
            body = f"{name}={HIDDEN}"
        elif is_telling(flag) and not body.startswith("-"):
            body = HIDDEN
        elif name == "--header" and equals:
            body = f"{name}={value.partition('=')[0]}={HIDDEN}"
        elif equals and is_telling(name):
            body = f"{name}={HIDDEN}"
        flag = body if body.startswith("-") and not equals else ""
        shown.append(lead + body)
    return shown
