"""Makes figures of outcomes: percentiles, tokens per second, goodput, errors by kind; plain data, ready for JSON.

Used by `rounds`. Pure; the percentile is the linear interpolation between closest ranks, as numpy's default.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from openllm_core.errors import InvalidSetting

from .answers import Failure, Sample
from .load import Level, Loaded

PERCENTILES = (50, 90, 95, 99)
LIMITS = {"ttft": "first_token_s", "itl": "inter_token_s", "total": "total_s"}
"""Names in `--slo` and the figure of a sample they limit."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of 100 lie.

    Args:
        values: at least one, in any order.
    """
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def parse_slo(text: str) -> dict[str, float]:
    """`ttft=0.5,itl=0.05` to limits in seconds by name.

    Raises:
        InvalidSetting: an unknown name, or no number above 0.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if name not in LIMITS or not 0 < seconds < float("inf"):
            raise InvalidSetting(
                f"{part!r} is no latency target.",
                hint=f"Write NAME=SECONDS with NAME of {', '.join(LIMITS)}, as in ttft=0.5,itl=0.05.",
                param="--slo",
            )
        found[name] = seconds
    return found


def within(sample: Sample, slo: Mapping[str, float]) -> bool:
    """Whether a request kept every limit; one of a single token has no inter-token time to miss."""
    return all((getattr(sample, LIMITS[name]) or 0.0) <= limit for name, limit in slo.items())


def summarise(level: Level, loaded: Loaded, slo: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Figures of one level.

    Args:
        slo: limits in seconds by the names of `LIMITS`.
    """
    good = [outcome for outcome in loaded.outcomes if isinstance(outcome, Sample)]
    bad = [outcome for outcome in loaded.outcomes if isinstance(outcome, Failure)]
    tokens = sum(sample.tokens for sample in good)
    found: dict[str, Any] = {
        "key": level.key,
        "concurrency": level.concurrency,
        "rate": level.rate,
        "requests": len(loaded.outcomes),
        "completed": len(good),
        "failed": len(bad),
        "errors": dict(Counter(failure.kind for failure in bad)),
        "error_messages": {failure.kind: failure.message for failure in reversed(bad)},
        "seconds": loaded.seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / loaded.seconds if loaded.seconds else 0.0,
        "requests_per_s": len(good) / loaded.seconds if loaded.seconds else 0.0,
        "client_cpu_us_per_token": loaded.cpu_s / tokens * 1e6 if tokens else None,
        "sent_late_p99_s": percentile(loaded.late_s, 99) if loaded.late_s else None,
        **_of_samples(good),
    }
    if slo:
        kept = sum(within(sample, slo) for sample in good)
        found["goodput_per_s"] = kept / loaded.seconds if loaded.seconds else 0.0
        found["goodput_share"] = kept / len(loaded.outcomes) if loaded.outcomes else 0.0
    return found


def _of_samples(good: Sequence[Sample]) -> dict[str, Any]:
    if not good:
        return {}
    prompts = [sample.prompt_tokens for sample in good if sample.prompt_tokens is not None]
    found: dict[str, Any] = {
        "tokens_per_request": statistics.fmean(sample.tokens for sample in good),
        "prompt_tokens_per_request": statistics.fmean(prompts) if prompts else None,
        "tokens_counted_by": max({sample.counted_by for sample in good}, key=("usage", "token_ids", "pieces").index),
        "finish_reasons": dict(Counter(str(sample.finish_reason) for sample in good)),
    }
    series = {
        "first_token": [sample.first_token_s for sample in good],
        "inter_token": [sample.inter_token_s for sample in good if sample.inter_token_s is not None],
        "gap": [gap for sample in good for gap in sample.gaps_s],
        "total": [sample.total_s for sample in good],
    }
    for name, values in series.items():
        for percent in PERCENTILES if values else ():
            found[f"{name}_p{percent}_s"] = percentile(values, percent)
    return found


def medians(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Per subject and level: the median over the rounds of every figure that is a number.

    Args:
        rounds: per round, subject -> {"levels": [figures, …], further figures}.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in rounds[0]:
        runs = [done[name] for done in rounds]
        found[name] = _median_of([{k: v for k, v in run.items() if k != "levels"} for run in runs])
        for group in zip(*(run["levels"] for run in runs), strict=True):
            found[name][group[0]["key"]] = _median_of(group)
    return found


def _median_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in runs[0].items():
        if isinstance(value, dict):
            found[key] = _median_of([run[key] for run in runs if isinstance(run.get(key), dict)])
        values = [run[key] for run in runs if isinstance(run.get(key), (int, float)) and not isinstance(run[key], bool)]
        if values and not isinstance(value, dict):
            found[key] = statistics.median(values)
    return found
