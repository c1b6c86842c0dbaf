"""Words stay whole while they stream."""

from __future__ import annotations

import random
import re

import pytest

from openllm.cli.wrap import WordWrap, columns_of

TEXT = (
    "The rainbow is a beautiful sight, and a-very-long-word-that-does-not-fit-anywhere ends it. 你好 你好你好你好 done\n"
    * 3
)


def shown(printed: str, columns: int) -> list[str]:
    """Lines a terminal of that width shows: the edge holds the cursor until the next character (as xterm does)."""
    rows, row, column = [[]], 0, 0
    for match in re.finditer(r"\x1b\[(\d*)([DK])|(.|\n)", printed):
        count, command, char = match.groups()
        line: list[str] = rows[row]
        if command == "D":
            column = max(min(column, columns - 1) - int(count), 0)
        elif command == "K":
            del line[min(column, columns - 1) :]
        elif char == "\n":
            rows.append([])
            row, column = row + 1, 0
        else:
            width = columns_of(char)
            if column + width > columns:
                rows.append([])
                row, column = row + 1, 0
                line = rows[row]
            line[column : column + width] = [char, *[""] * (width - 1)]
            column += width
    return ["".join(line) for line in rows]


@pytest.mark.parametrize("columns", range(17, 50))
@pytest.mark.parametrize("seed", range(2))
def test_words_are_never_cut_however_the_pieces_fall(columns: int, seed: int):
    """Every word that fits a line stands whole on one; all words are there, in order; no line is too long."""
    dice = random.Random(seed)
    wrap, printed, rest = WordWrap(columns), "", TEXT
    while rest:
        size = dice.randint(1, 7)
        printed += wrap.feed(rest[:size])
        rest = rest[size:]
    lines = shown(printed, columns)
    assert all(sum(map(columns_of, line)) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == TEXT.replace(" ", "").replace("\n", "")
    for word in TEXT.split():
        if sum(map(columns_of, word)) <= columns:
            assert any(word in line.split() for line in lines), word


def test_code_is_left_to_the_terminal():
    """Fenced and indented lines are printed as they are."""
    code = (
        "```python\nprint('a long line of code that does not fit')\n```\n    indented code that does not fit either\n"
    )
    assert WordWrap(20).feed(code) == code


def test_a_text_that_fits_is_unchanged():
    """No escape sequence where nothing is wrapped."""
    assert WordWrap(80).feed("One line.\n\n- a list\n  more\n") == "One line.\n\n- a list\n  more\n"
