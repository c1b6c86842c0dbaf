"""Errors under the name 0.3.5 gave the module; `errors` is where they live."""

from __future__ import annotations

from .errors import (
    Error,
    FineTuneStrategyNotSupportedError,
    ForbiddenAttributeError,
    GpuNotAvailableError,
    MissingAnnotationAttributeError,
    MissingDependencyError,
    OpenLLMError,
    OpenLLMException,
    ValidationError,
)

__all__ = [
    "Error",
    "FineTuneStrategyNotSupportedError",
    "ForbiddenAttributeError",
    "GpuNotAvailableError",
    "MissingAnnotationAttributeError",
    "MissingDependencyError",
    "OpenLLMError",
    "OpenLLMException",
    "ValidationError",
]
