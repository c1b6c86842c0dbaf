"""Traces and metrics over OTLP, where the standard variables name a collector; what sends them loads only then.

`openllm.compose` asks `begin` and hands what it gets to both servers as an observer. OpenTelemetry itself is imported by
`otel` alone, which needs the extra of that name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .otel import Telemetry

ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_log = logging.getLogger("openllm.telemetry")


def begin(environ: Mapping[str, str]) -> Telemetry | None:
    """What sends traces and metrics to the collector that the variables name; None where none is named.

    Without the extra nothing is sent, and a warning says so: a platform may set the variables for all it runs.

    Raises:
        InvalidSetting: a variable asks for a protocol that there is not.
    """
    if not wanted(environ):
        return None
    if not installed():
        named = next(name for name in ENDPOINTS if environ.get(name))
        _log.warning("%s is set, but nothing is sent: pip install 'openllm[otel]'", named)
        return None
    from .otel import Telemetry

    return Telemetry(environ)


def installed() -> bool:
    """Whether the extra is: other packages bring OpenTelemetry, but not what speaks to a collector."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the operator asked for it, in OpenTelemetry's own words."""
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not off and any(environ.get(name) for name in ENDPOINTS)
