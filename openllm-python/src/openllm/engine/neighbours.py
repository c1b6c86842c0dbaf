"""What an engine among several asks of its pool. A module of its own because both sides know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .engine import Engine


class Neighbours(Protocol):
    """Other engines of the same model, among which requests that nobody has begun may move."""

    def take_over(self, engine: Engine) -> None:
        """This engine cannot go on for now: take what waits there."""
        ...

    def fill(self, engine: Engine) -> None:
        """This engine has idle slots: bring it what waits elsewhere."""
        ...
