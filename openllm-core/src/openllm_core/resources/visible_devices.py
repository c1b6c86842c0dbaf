"""The grammar of CUDA_, HIP_ and ROCR_VISIBLE_DEVICES, and the GPUs a request may ask for. Pure: text in, names out.

Called by `detect.py` and `workers.py`. Follows the CUDA driver's reading: a list is cut at its first bad element, a
repeated element empties it. Knows nothing of the hardware; whether a device is there is the caller's question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

VARIABLE = "CUDA_VISIBLE_DEVICES"
HIP_VARIABLE = "HIP_VISIBLE_DEVICES"
ROCR_VARIABLE = "ROCR_VISIBLE_DEVICES"

Vendor = Literal["nvidia", "amd"]

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


def from_environment(environ: Mapping[str, str], vendor: Vendor = "nvidia") -> list[str] | None:
    """Devices the environment names; None when it names none or its variable is empty, so that the hardware decides.

    For AMD the first that is set counts: HIP_, CUDA_ (which HIP reads too), ROCR_VISIBLE_DEVICES.
    """
    variables = (VARIABLE,) if vendor == "nvidia" else (HIP_VARIABLE, VARIABLE, ROCR_VARIABLE)
    text = next((environ[name] for name in variables if environ.get(name)), "")
    return parse(text) if text else None


def filters(environ: Mapping[str, str], vendor: Vendor) -> list[str]:
    """Texts a vendor's driver applies to its devices, in this order; each numbers the devices that the last one left.

    ROCm's runtime reads ROCR_VISIBLE_DEVICES, then HIP reads HIP_VISIBLE_DEVICES, or else CUDA_VISIBLE_DEVICES.
    """
    if vendor == "nvidia":
        found = [environ.get(VARIABLE)]
    else:
        found = [environ.get(ROCR_VARIABLE), environ.get(HIP_VARIABLE, environ.get(VARIABLE))]
    return [text for text in found if text is not None]


def from_flag(values: Sequence[str], available: Sequence[str] = ()) -> tuple[str, ...]:
    """Devices of `--device`, which may be repeated, and of which each may be a list.

    Args:
        values: as typed; `all` stands for every available device.
        available: names of the devices there are.
    """
    named: list[str] = []
    for value in values:
        named += available if value.strip() == "all" else parse(value)
    return tuple(dict.fromkeys(named))


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
