"""Versions of installed distributions, by their metadata; nothing of them is imported.

Asked where a choice hangs on what is installed, and by the checks of a start. Who asks takes a `Version`, so that a test can
make one up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import metadata

Version = Callable[[str], str | None]
"""Distribution -> its version; None when it is not installed."""


@functools.cache
def version(distribution: str) -> str | None:
    """Version of an installed distribution; None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
