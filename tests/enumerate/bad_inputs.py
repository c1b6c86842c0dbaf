"""Sends cases to a site and counts: inputs, bad ones among them, and whatever was wrong with an answer.

Run by the test of this folder over a sample, by `tools/bad_inputs.py` over all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import attrs

from .cases import Case
from .reading import Reading
from .site import ADAPTER, Site
from .verdict import fault_of

LONGEST_S = 30.0
KEPT = 200


@attrs.define
class Tally:
    """What a run saw.

    Attributes:
        sent: bodies, no two of them alike on one route.
        bad: of them, those that had to be refused.
        by_status: how they were answered.
        faults: (route, what was sent, what was wrong); the first KEPT.
        server_errors, wrongly_accepted, wrongly_refused, other: how many of each.
    """

    sent: int = 0
    bad: int = 0
    by_status: Counter[int] = attrs.field(factory=Counter)
    by_route: Counter[str] = attrs.field(factory=Counter)
    faults: list[tuple[str, str, str]] = attrs.field(factory=list)
    server_errors: int = 0
    wrongly_accepted: int = 0
    wrongly_refused: int = 0
    other: int = 0

    def note(self, case: Case, fault: str, status: int) -> None:
        """Count a fault."""
        if status >= 500:
            self.server_errors += 1
        elif fault.startswith("wrongly accepted"):
            self.wrongly_accepted += 1
        elif fault.startswith("wrongly refused"):
            self.wrongly_refused += 1
        else:
            self.other += 1
        if len(self.faults) < KEPT:
            self.faults.append((case.route.path, case.name[:160], fault[:400]))

    def as_data(self) -> dict[str, Any]:
        """Plain data, for a file of figures."""
        data = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "by_status")
        return data | {"by_status": {str(status): count for status, count in sorted(self.by_status.items())}}


async def run(
    site: Site,
    reading: Reading,
    cases: Iterable[Case],
    *,
    most_bad: int,
    portion: int = 0,
    portions: int = 1,
    most_s: float = float("inf"),
) -> Tally:
    """Send cases one after another until so many bad ones were sent, or there are no more; none of them twice.

    Args:
        most_s: seconds after which it ends in any case.
        portion, portions: of all bodies there are, take those of one portion: no body is in two of them.
    """
    tally = Tally()
    seen: set[int] = set()
    end = time.monotonic() + most_s
    for case in cases:
        digest = blake2b(f"{case.route.path} {case.body}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest)
        if key in seen or key % portions != portion:
            continue
        seen.add(key)
        tally.sent += 1
        await judged(site, reading, case, tally)
        if tally.bad >= most_bad or time.monotonic() > end:
            break
    return tally


async def judged(site: Site, reading: Reading, case: Case, tally: Tally) -> None:
    """Send one case and count what came of it."""
    because = reading.refuses(case.route.schema, case.body)
    tally.bad += because is not None
    tally.by_route[case.route.path] += 1
    body = case.body.encode("utf-8", "surrogatepass")
    async with asyncio.timeout(LONGEST_S):
        answer = await site.ask(case.route.method, case.route.path, body)
    tally.by_status[answer.status] += 1
    fault = fault_of(case, because, answer)
    if fault is not None:
        tally.note(case, fault, answer.status)
    if answer.status < 300 and case.route.path == "/v1/adapters/unload":
        await site.ask("POST", "/v1/adapters/load", b'{"adapter_name":"%s"}' % ADAPTER.encode())
