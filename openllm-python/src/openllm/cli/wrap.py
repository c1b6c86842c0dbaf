"""Words kept whole while an answer streams onto a terminal. Used by `chat` and `query`; knows columns, nothing of models.

A word is printed as it comes. When it grows past the edge, it is taken back and printed again on the next line. Lines of
code (fenced, or indented by four) are left to the terminal, so that they can be copied.
"""

from __future__ import annotations

import unicodedata


class WordWrap:
    """Wraps one streamed text.

    Args:
        columns: of the terminal.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.line = ""  # since the last line end of the text
        self.used = 0  # columns taken on the terminal's line
        self.word = ""
        self.in_code = False

    def feed(self, text: str) -> str:
        """What to print for the next piece."""
        return "".join(map(self._put, text))

    def _put(self, char: str) -> str:
        if char == "\n":
            self.in_code ^= self.line.lstrip().startswith("```")
            self.line = self.word = ""
            self.used = 0
            return char
        self.line += char
        if self.in_code or self.line.startswith(("    ", "\t", "```")):
            return char
        if char.isspace():
            self.word = ""
            if self.used >= self.columns:
                self.used = 0
                return "\n"  # the space itself would begin the next line
            self.used += 1
            return char
        width = columns_of(char)
        moved = self._next_line() if self.used + width > self.columns else ""
        self.word += char
        self.used += width
        return moved + char

    def _next_line(self) -> str:
        """Take the word back and print it on a line of its own; one that fills a line stays where it is."""
        taken = sum(map(columns_of, self.word))
        if taken >= self.used:
            self.used = 0
            self.word = ""
            return ""
        # The cursor rests on the last column once that is filled: one step less leads back over the word.
        steps = taken - (self.used == self.columns)
        self.used = taken
        back = f"\x1b[{steps}D" if steps else ""
        return f"{back}\x1b[K\n{self.word}" if taken else "\n"


def columns_of(char: str) -> int:
    """Columns a character takes: 0 for combining marks, 2 for wide ones."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
