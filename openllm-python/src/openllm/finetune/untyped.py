"""The libraries of training, imported when needed, with the pip line where one is missing.

Called by the modules of this package. peft, transformers and bitsandbytes leave much untyped, so they are handed out as
they are; quietly, since what they would print is not ours to say.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from importlib import import_module
from typing import Any

from openllm_core.errors import MissingDependency

EXTRA = 'pip install "openllm[fine-tune]"'


def library(name: str) -> Any:
    """A module by its dotted name.

    Raises:
        MissingDependency: its package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingDependency(f"{package} cannot be imported: {error}", hint=EXTRA) from error


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """Without the libraries' own warnings and bars."""
    talk = library("transformers.utils.logging")
    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()
