"""Figures made of outcomes."""

from __future__ import annotations

import random
import statistics
from typing import Any

import attrs
import pytest

from openllm.bench.answers import Failure, Sample
from openllm.bench.load import Level, Loaded
from openllm.bench.results import medians, parse_slo, percentile, summarise, within
from openllm_core.errors import InvalidSetting

SAMPLE = Sample(
    first_token_s=0.1,
    inter_token_s=0.01,
    gaps_s=[0.01, 0.02],
    total_s=1.0,
    tokens=10,
    prompt_tokens=5,
    counted_by="usage",
    finish_reason="length",
)


def test_percentile_is_the_interpolated_one():
    """As `statistics.quantiles(..., method="inclusive")`, for any number of values."""
    dice = random.Random(1)
    for count in (2, 3, 10, 101, 500):
        values = [dice.expovariate(1) for _ in range(count)]
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        assert [percentile(values, p) for p in (50, 90, 95, 99)] == pytest.approx(
            [cuts[p - 1] for p in (50, 90, 95, 99)]
        )
    assert percentile([3.0], 99) == 3.0


def test_a_level_is_summed_up():
    """Tokens per second over the whole time; failures by kind with what the server said; they give no tokens."""
    outcomes = [SAMPLE, attrs.evolve(SAMPLE, first_token_s=0.3), Failure(kind="http_503", message="busy")]
    found = summarise(Level(concurrency=3), Loaded(outcomes, 2.0, [0.0, 0.0, 0.5], 0.001))
    assert (found["key"], found["requests"], found["completed"], found["failed"]) == ("3", 3, 2, 1)
    assert found["tokens_per_s"] == 10.0
    assert found["errors"] == {"http_503": 1}
    assert found["error_messages"] == {"http_503": "busy"}
    assert found["first_token_p50_s"] == pytest.approx(0.2)
    assert found["client_cpu_us_per_token"] == pytest.approx(50.0)
    assert found["tokens_counted_by"] == "usage"


def test_the_weakest_way_of_counting_is_shown():
    """One answer whose tokens had to be guessed makes the whole level a guess."""
    outcomes = [SAMPLE, attrs.evolve(SAMPLE, counted_by="pieces"), attrs.evolve(SAMPLE, counted_by="token_ids")]
    assert summarise(Level(rate=2.5), Loaded(outcomes, 1.0, [0.0], 0.0))["tokens_counted_by"] == "pieces"


def test_nothing_answered_is_no_crash():
    """All failed: no times, zero tokens, the errors are there."""
    found = summarise(Level(rate=2.5), Loaded([Failure(kind="cut", message="x")], 1.0, [0.0], 0.0), {"ttft": 1.0})
    assert (found["key"], found["tokens_per_s"], found["goodput_share"]) == ("rate_2_5", 0.0, 0.0)
    assert "first_token_p50_s" not in found


def test_goodput_counts_requests_that_kept_every_limit():
    """One late first token, one slow stream, one failure: one of four is within; of all requests, not of the answered."""
    late, slow = attrs.evolve(SAMPLE, first_token_s=0.6), attrs.evolve(SAMPLE, inter_token_s=0.06)
    loaded = Loaded([SAMPLE, late, slow, Failure(kind="cut", message="x")], 2.0, [0.0], 0.0)
    found = summarise(Level(concurrency=1), loaded, parse_slo("ttft=0.5,itl=0.05"))
    assert (found["goodput_share"], found["goodput_per_s"]) == (0.25, 0.5)
    assert within(attrs.evolve(SAMPLE, inter_token_s=None), {"itl": 0.001})


@pytest.mark.parametrize("text", ["ttft", "ttft=", "ttft=-1", "ttft=nan", "tftt=1", "ttft=0.5;itl=1"])
def test_a_wrong_target_is_refused(text: str):
    """It names --slo and how to write one."""
    with pytest.raises(InvalidSetting) as caught:
        parse_slo(text)
    assert caught.value.param == "--slo"


def test_medians_are_taken_over_rounds():
    """Per subject and level; figures that are no numbers are left out, nested ones kept."""

    def run(ready: float, speed: float) -> dict[str, Any]:
        level = {"key": "8", "tokens_per_s": speed, "tokens_counted_by": "usage", "server_cpu": {"server": speed}}
        return {"a": {"ready_s": ready, "levels": [level]}}

    found = medians([run(1.0, 10.0), run(9.0, 30.0), run(2.0, 20.0)])
    assert found == {"a": {"ready_s": 2.0, "8": {"tokens_per_s": 20.0, "server_cpu": {"server": 20.0}}}}
