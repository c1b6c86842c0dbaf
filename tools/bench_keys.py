"""Whether the time that a refusal of a key takes tells how near the key was: Welch's t test in the manner of dudect.

Two kinds of wrong keys, in random turns: the right one but for its last character, and random ones. Equal means: |t| < 4.5.
Method: Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?" (2016). Part of `hatch run full`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import secrets
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openllm.access import Access
from openllm.access.keys import new_key
from openllm_core.errors import InvalidRequest
from openllm_core.options import ServerOptions

LIMIT = 4.5
KEYS = 10
CROPPED = 0.95  # samples above this quantile of all are the machine's doing


def measure(compares: int) -> dict[str, Any]:
    """|t| between the refusals of near keys and of far ones, and what they took."""
    keys = [new_key() for _ in range(KEYS)]
    door = Access(ServerOptions(api_key=tuple(keys)))
    near = [[f"Bearer {key[:-1]}{'A' if key[-1] != 'A' else 'B'}"] for key in keys]
    far = [[f"Bearer {new_key()}"] for _ in range(KEYS)]
    draw, clock = random.Random(secrets.randbits(64)), time.perf_counter_ns
    samples: tuple[list[int], list[int]] = ([], [])
    for _ in range(compares):
        kind = draw.getrandbits(1)
        given = (near, far)[kind][draw.randrange(KEYS)]
        began = clock()
        try:
            door.identify(given)
        except InvalidRequest:
            samples[kind].append(clock() - began)
    assert len(samples[0]) + len(samples[1]) == compares, "a wrong key was let in"
    limit = sorted(samples[0] + samples[1])[int(CROPPED * compares)]
    kept = [[value for value in values if value <= limit] for values in samples]
    means, variances = [statistics.fmean(v) for v in kept], [statistics.variance(v) for v in kept]
    t = (means[0] - means[1]) / math.sqrt(sum(v / len(k) for v, k in zip(variances, kept, strict=True)))
    return {
        "compares": compares,
        "keys": KEYS,
        "t": abs(t),
        "limit": LIMIT,
        "mean_ns": dict(zip(("near", "far"), means, strict=True)),
    }


def machine() -> dict[str, Any]:
    """Machine, versions and commit the figures belong to."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": {"openllm": version("openllm")},
    }


def main() -> int:
    """Measure and print, write the file of figures where one is named; 1 where the two kinds can be told apart."""
    parser = argparse.ArgumentParser(description="Measure whether refusing a key takes the same time for all.")
    parser.add_argument("--compares", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="file of figures to write")
    options = parser.parse_args()
    found = measure(options.compares)
    print(f"|t| = {found['t']:.2f} over {found['compares']:,} refusals (limit {LIMIT})", file=sys.stderr)
    if options.json is not None:
        command = f"python tools/bench_keys.py --compares {options.compares} --json {options.json}"
        options.json.write_text(json.dumps({"command": command, **machine(), **found}, indent=2) + "\n")
    return 0 if found["t"] < LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
