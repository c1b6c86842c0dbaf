#!/usr/bin/env python3
"""Measure what openllm-core costs: its imports, and reading every setting of a start.

    python tools/bench_core.py --json docs/figures/core.json

Each statement runs in a fresh interpreter, in turns with the others, and so does reading the settings: the options of engine,
server and store, the family's file, and the family's configuration, with some variables set, once and then again. Figures
are CPU milliseconds of the process, medians over the rounds; an import's is above an interpreter that imports nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

EMPTY = "pass"
BARE = "import attrs, cattrs, orjson"
IMPORTS = {
    "bare": BARE,
    "package": "import openllm_core",
    "schema": "import openllm_core.schema",
    "config": "from openllm_core import LLMConfig",
    "all": "from openllm_core import *",
}
READING = """
import json, time
import tomllib, openllm_core.config.auto, openllm_core.config.classes
from openllm_core import LLMConfig, options, settings
from openllm_core.families import registry
def read():
    began = time.process_time()
    made = [settings.read(cls) for cls in (options.EngineOptions, options.ServerOptions, options.StoreOptions)]
    family = registry.find("opt")
    config = LLMConfig.for_model(family)
    spent = time.process_time() - began
    assert made[1].options.port == 4000 and config["temperature"] == 0.5
    return spent * 1e3
print(json.dumps([read(), read()]))
"""
SET = {
    "OPENLLM_PORT": "4000",
    "OPENLLM_BACKEND": "pt",
    "OPENLLM_API_KEY": "a,b",
    "OPENLLM_GENERATION_TEMPERATURE": "0.5",
    "OPENLLM_SAMPLING_N": "2",
}


def cpu_ms(statement: str) -> float:
    """CPU time of a fresh interpreter that runs a statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measure(rounds: int) -> dict[str, Any]:
    """Medians over the rounds, every sample, and the ratios of the imports to importing the three packages bare."""
    cpu_ms(IMPORTS["all"])  # writes the byte code
    samples: dict[str, list[float]] = {name: [] for name in (*IMPORTS, "first_reading", "next_reading")}
    for _ in range(rounds):
        empty = cpu_ms(EMPTY)
        for name, statement in IMPORTS.items():
            samples[name].append(cpu_ms(statement) - empty)
        command = [sys.executable, "-c", READING]
        done = subprocess.run(command, env=os.environ | SET, capture_output=True, text=True, check=True)
        first, following = json.loads(done.stdout)
        samples["first_reading"].append(first)
        samples["next_reading"].append(following)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    ratios = {name: medians[name] / medians["bare"] for name in IMPORTS if name != "bare"}
    return {"rounds": rounds, "medians_ms": medians, "ratios": ratios, "samples_ms": samples, "statements": IMPORTS}


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
        "versions": {name: version(name) for name in ("openllm-core", "attrs", "cattrs", "orjson")},
    }


def main() -> None:
    """Measure and print, and write the file of figures where one is named."""
    parser = argparse.ArgumentParser(description="Measure what openllm-core costs.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="file of figures to write")
    options = parser.parse_args()
    found = measure(options.rounds)
    for name, value in found["medians_ms"].items():
        ratio = f"  {found['ratios'][name]:.2f} of bare" if name in found["ratios"] else ""
        print(f"{name:<14}{value:8.2f} ms{ratio}", file=sys.stderr)
    if options.json is not None:
        command = f"python tools/bench_core.py --rounds {options.rounds} --json {options.json}"
        text = json.dumps({**found, "command": command, **machine()}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
