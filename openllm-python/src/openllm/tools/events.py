"""What a model's text holds, in the order it comes: text for the reader, reasoning, and calls with their arguments.

Made by `readers`, handed out by `parser`. Plain values.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Text:
    """Words for the reader."""

    text: str


@attrs.frozen
class Reasoning:
    """Words of the model to itself."""

    text: str


@attrs.frozen
class Call:
    """A call begins; what follows, up to the next one, are its arguments."""

    name: str


@attrs.frozen
class Arguments:
    """A piece of the JSON text of the present call's arguments."""

    text: str


Event = Text | Reasoning | Call | Arguments
