"""Prompts on their way into the lanes: those computed together, and the first tokens drawn for them.

Values of the scheduler, which fills them step by step. They know nothing of policy.
"""

from __future__ import annotations

import attrs
from transformers.cache_utils import Cache

from .lanes import Prefilled
from .rows import Row
from .sampling import Draw


class Prefill:
    """Prompts being computed together, over as many steps as their length takes.

    Attributes:
        groups: rows by distinct prompt; those of one prompt share its computation.
    """

    def __init__(self, groups: list[list[Row]]) -> None:
        self.groups = groups
        self.cache: Cache | None = None
        self.done = 0  # columns computed so far

    @property
    def prompts(self) -> list[list[int]]:
        """The distinct prompts."""
        return [group[0].prompt for group in self.groups]

    @property
    def rows(self) -> list[Row]:
        """All rows, in group order."""
        return [row for group in self.groups for row in group]


@attrs.frozen
class First:
    """First tokens of prompts that were just computed.

    Attributes:
        picks: row of `source` that each row comes from.
        draw: None when no row is left.
    """

    rows: list[Row]
    picks: list[int]
    source: Prefilled
    draw: Draw | None
