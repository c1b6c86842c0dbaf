"""Sets two results side by side: the ratio of each figure, and which of them got worse than a tolerance allows.

Used by `openllm bench --compare`. Reads the medians of the JSON that the command writes; pure but for reading the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.errors import InvalidSetting

HIGHER_IS_BETTER = ("tokens_per_s", "goodput_share")
LOWER_IS_BETTER = (
    *(f"{series}_p{percent}_s" for series in ("first_token", "inter_token", "total") for percent in (50, 95)),
    "server_us_per_token",
    "ready_s",
)


@attrs.frozen(kw_only=True)
class Change:
    """One figure in both results.

    Attributes:
        where: subject and level.
        ratio: new to old; None where the old one is 0.
        worse: it got worse by more than the tolerance.
    """

    where: str
    figure: str
    old: float
    new: float
    ratio: float | None
    worse: bool


def load(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        InvalidSetting: the file is not one.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data["medians"], dict):
            raise TypeError
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}.", param="--compare") from None
    except (ValueError, LookupError, TypeError):
        raise InvalidSetting(f"{path} is no result of `openllm bench --json`.", param="--compare") from None
    return cast("dict[str, Any]", data)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[Change]:
    """Every figure that both results have, in the order of the new one.

    Args:
        tolerance: share by which a figure may be worse, as 0.05.

    Raises:
        InvalidSetting: they have no subject and level in common.
    """
    changes: list[Change] = []
    before = dict(_flat(old["medians"]))
    if not any("/" in where and where in before for where, _ in _flat(new["medians"])):
        raise InvalidSetting("The two results have no subject and level in common.", param="--compare")
    for where, figures in _flat(new["medians"]):
        for name in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER, "failed"):
            a, b = before.get(where, {}).get(name), figures.get(name)
            if isinstance(a, (int, float)) and isinstance(b, (int, float)):
                changes.append(_change(where, name, float(a), float(b), tolerance))
    return changes


def _change(where: str, name: str, old: float, new: float, tolerance: float) -> Change:
    if name in HIGHER_IS_BETTER:
        worse = new < old * (1 - tolerance)
    elif name == "failed":
        worse = new > old
    else:
        worse = new > old * (1 + tolerance)
    return Change(where=where, figure=name, old=old, new=new, ratio=new / old if old else None, worse=worse)


def _flat(medians: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(subject, its own figures), then (subject/level, figures) for each level."""
    for subject, found in medians.items():
        yield subject, {key: value for key, value in found.items() if not isinstance(value, dict)}
        for level, figures in found.items():
            if isinstance(figures, dict):
                figures = cast("dict[str, Any]", figures)
                yield f"{subject}/{level}", figures | cast("dict[str, Any]", figures.get("server_cpu") or {})
