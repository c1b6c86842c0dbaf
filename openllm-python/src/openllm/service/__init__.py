"""Use cases, schema in and schema out: what the server can do, with no framework in sight."""

from __future__ import annotations

from .answers import Answer
from .use_cases import ServedModel, Service

__all__ = ["Answer", "ServedModel", "Service"]
