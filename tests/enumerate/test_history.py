"""No client ever gets what another one's request made, whatever happens to the server: sixty-four clients, and the checker.

`OPENLLM_TEST_HISTORY_S` makes it longer: the soak runs ten minutes.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from tests.e2e.conftest import openllm_start
from tests.enumerate import drive
from tests.enumerate.history import anomalies, summary
from tests.tiny_adapters import blank_adapter

SECONDS = float(os.environ.get("OPENLLM_TEST_HISTORY_S") or 20)
DEEDS = (drive.cut_connections, drive.kill_engine, drive.flood, drive.pause_engine, drive.cut_connections)
MORE = (*DEEDS, drive.freeze_engine, drive.flood, drive.kill_engine)

pytestmark = pytest.mark.timeout(SECONDS + 300)


async def test_no_cross_talk(tmp_path: Path):
    """Streams, one-shot answers and gRPC, the default adapter changing all the while; the engine is killed and stopped,
    connections are cut, and the line is flooded. Each call ends exactly once, with its own text or none, [DONE] if and only
    if it is whole, by the adapter that it was admitted with."""
    arguments = ["--backend", "echo", "--max-queue", "48", "--restarts", "100", "--max-num-seqs", "16"]
    for name, reply in drive.ADAPTERS.items():
        arguments += ["--adapter-id", f"{blank_adapter(tmp_path / name, echo=reply)}:{name}"]
    arguments += ["--engine-arg", "step_s=0.004"]
    deeds = DEEDS if SECONDS < 60 else tuple(itertools.islice(itertools.cycle(MORE), 10_000))
    with openllm_start(tmp_path / "log.txt", *arguments, grpc=True) as server:
        course = await drive.converse(server, clients=64, seconds=SECONDS, seed=71, deeds=deeds)
        assert server.process.poll() is None
    told = summary(course.calls, course.switches)
    print(told, course.deeds)
    assert anomalies(course.calls, course.switches, first="poet")[:20] == [], told
    assert told["ends"]["finished"] > 10 * SECONDS, told
    assert {"cut", "error", "refused"} <= set(told["ends"]), told
    assert len(course.switches) > 2 * SECONDS and len(course.deeds) >= min(len(DEEDS), SECONDS / 6), (
        told,
        course.deeds,
    )
