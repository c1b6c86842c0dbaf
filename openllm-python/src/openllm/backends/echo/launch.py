"""What the supervisor asks of the echo backend before its host starts: nothing to set, next to nothing to hold."""

from __future__ import annotations

from typing import Any

from openllm_core.options import EngineOptions

from .. import arguments
from ..base import MemoryEstimate
from .script import Script


def environment(options: EngineOptions, machine: Any = None) -> dict[str, str]:
    """No variable is needed."""
    return {}


def estimate(options: EngineOptions, machine: Any = None) -> MemoryEstimate:
    """A few megabytes: there is no model."""
    return MemoryEstimate(need_bytes=8 * 1024 * 1024)


def check_arguments(options: EngineOptions) -> None:
    """Whether the script can be read.

    Raises:
        InvalidSetting: it cannot.
    """
    arguments.read(Script, options.engine_arg, "echo")


def embeds(options: EngineOptions) -> bool:
    """Whether the script says so."""
    return bool(options.engine_arg.get("embed"))
