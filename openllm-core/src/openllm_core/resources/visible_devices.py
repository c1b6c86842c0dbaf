"""The grammar of CUDA_VISIBLE_DEVICES, and the GPU numbers a resource request may ask for. Pure: text in, names out.

Called by `detect.py` and `workers.py`. Follows the CUDA driver's reading: a list is cut at its first bad element, a
repeated element empties it. Knows nothing of the hardware; whether a device is there is the caller's question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

VARIABLE = "CUDA_VISIBLE_DEVICES"

_PREFIXES = ("GPU-", "MIG-")
_LEADING_INTEGER = re.compile(r"[+-]?[0-9]+")


def parse(text: str) -> list[str]:
    """Devices named by a value of CUDA_VISIBLE_DEVICES: ordinals or UUIDs, as strings.

    Text that starts with `GPU-` or `MIG-` is a list of UUIDs of that kind; anything else a list of ordinals, of which
    only the leading integer counts. The list ends at the first element that does not fit; a repeat empties it.
    """
    devices = _uuids(text) if text.startswith(_PREFIXES) else _ordinals(text)
    return devices if len(set(devices)) == len(devices) else []


def _uuids(text: str) -> list[str]:
    prefix = text[:4]
    devices: list[str] = []
    for element in text.split(","):
        if not element.startswith(prefix):
            break
        devices.append(element)
    return devices


def _ordinals(text: str) -> list[str]:
    devices: list[str] = []
    for element in text.split(","):
        found = _LEADING_INTEGER.match(element.strip())
        if found is None or int(found.group()) < 0:
            break
        devices.append(str(int(found.group())))
    return devices


def from_environment(environ: Mapping[str, str]) -> list[str] | None:
    """Devices the environment names; None when the variable is unset or empty, so that the hardware decides."""
    text = environ.get(VARIABLE, "")
    return parse(text) if text else None


def from_spec(spec: Any) -> list[str]:
    """Devices a resource request names.

    Args:
        spec: a count (-1 and 0 mean none), text ("3" is a count; else as in CUDA_VISIBLE_DEVICES), or a list of names.

    Raises:
        ValueError: a count below -1.
        TypeError: any other type.
    """
    if isinstance(spec, int):
        if spec < -1:
            raise ValueError(f"A number of GPUs must be -1 or more, not {spec}.")
        return [str(index) for index in range(max(spec, 0))]
    if isinstance(spec, str):
        if spec.isdecimal():
            return [str(index) for index in range(int(spec))]
        return parse(spec) if spec else []
    if isinstance(spec, list):
        return [str(item) for item in cast("list[Any]", spec)]
    raise TypeError(f"GPUs are given as a count, text or a list, not {type(spec).__name__}.")
