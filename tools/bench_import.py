#!/usr/bin/env python3
"""What an import into the store costs, beside copying and hashing the same files with the standard library.

    python tools/bench_import.py [FOLDER] [--rounds N] [--json FILE]

FOLDER is a model folder, by default that of the default model in the store. Both write to the same disk, take turns, and
read a source that is in the page cache. The copy comes twice: as it is, and with each file fsynced, as an import does so
that what is listed survives a power cut.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openllm.bench.surroundings import surroundings
from openllm.serialisation import import_model, resolve
from openllm_core.options import StoreOptions
from openllm_core.settings import read

MB = 1e6


def copy_and_hash(source: Path, target: Path, *, sync: bool) -> None:
    """Copy a folder's files and hash the copies: what anybody would write."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        copy = target / file.name
        shutil.copyfile(file, copy)
        with open(copy, "rb") as opened:
            hashlib.file_digest(opened, "sha256")
            if sync:
                os.fsync(opened.fileno())


def by_import(source: Path, target: Path) -> None:
    """`openllm import FOLDER` into an empty store."""
    import_model(str(source), options=StoreOptions(home=str(target)))


def measure(work: Callable[[Path], None], folder: Path) -> dict[str, float]:
    """Wall and processor seconds of one run into a fresh place, after the disk is at rest."""
    target = folder / "target"
    os.sync()
    wall, cpu = time.perf_counter(), time.process_time()
    work(target)
    taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    shutil.rmtree(target)
    return taken


def compare(source: Path, rounds: int) -> dict[str, Any]:
    """Samples of all three, taken in turns, and their medians and ratios."""
    subjects: dict[str, Callable[[Path], None]] = {
        "copy": lambda target: copy_and_hash(source, target, sync=False),
        "synced_copy": lambda target: copy_and_hash(source, target, sync=True),
        "import": lambda target: by_import(source, target),
    }
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    with tempfile.TemporaryDirectory(prefix=".bench-import-", dir=Path.cwd()) as text:
        for work in subjects.values():
            measure(work, Path(text))  # imports, caches
        for _ in range(rounds):
            for name, work in subjects.items():
                samples[name].append(measure(work, Path(text)))
    medians = {
        name: {key: statistics.median(s[key] for s in taken) for key in ("wall_s", "cpu_s")}
        for name, taken in samples.items()
    }
    ratios = {
        f"{key}_to_{peer}": medians["import"][key] / medians[peer][key]
        for peer in ("copy", "synced_copy")
        for key in ("wall_s", "cpu_s")
    }
    size = sum(file.stat().st_size for file in source.iterdir())
    return {"size_mb": size / MB, "rounds": rounds, "medians": medians, "ratios": ratios, "samples": samples}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    options: StoreOptions = read(StoreOptions).options
    source: Path = args.folder or resolve(None, options=options).path
    words = ["python", "tools/bench_import.py", *sys.argv[1:]]
    result = compare(source.resolve(), args.rounds) | surroundings(words)
    print(json.dumps({"medians": result["medians"], "ratios": result["ratios"]}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
