#!/usr/bin/env python3
"""Run the enumerators of the tests at full size and publish what they went through.

    python tools/enumerated.py [history | stops | cuts | cancels | store | schemathesis | labels ...] [-k EXPRESSION] [--size N]

Each of them is a test file that counts what it does (`record_property`) and takes its size from a variable: seconds of the
history, cases of the stop strings, bytes between two cuts, examples of each operation. Writes docs/figures/enumerated.json, test
by test: one that ran takes the place of what stood there, so that -k can take them in portions. Ends with pytest's exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

from openllm.bench.surroundings import surroundings

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "figures" / "enumerated.json"
STORE = "tests/openllm/serialisation/faults/test_publishing.py"
ENUMERATORS = {  # name: file, variable, size
    "history": ("tests/enumerate/test_history.py", "OPENLLM_TEST_HISTORY_S", 600),
    "stops": ("tests/enumerate/test_stops.py", "OPENLLM_TEST_STOPS", 10_000),
    "cuts": ("tests/enumerate/test_cuts.py", "OPENLLM_TEST_CUTS_EVERY", 1),
    "cancels": ("tests/enumerate/test_cancels.py", "", 1),  # these two stand at every place in any case
    "store": (STORE, "", 1),
    "schemathesis": ("tests/enumerate/test_schemathesis.py", "OPENLLM_TEST_SCHEMATHESIS", 60),
    "labels": ("tests/enumerate/test_labels.py", "OPENLLM_TEST_LABELS", 100_000),
}


def run(what: str, words: list[str], size: int, report: Path) -> int:
    """Run one enumerator; `report` then holds what its tests counted, as JUnit's XML."""
    file, variable, _ = ENUMERATORS[what]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, *words]
    command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
    environment = os.environ | ({variable: str(size)} if variable else {})
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def told(report: Path, about: dict[str, Any], size: int) -> dict[str, Any]:
    """What each test of a report did, by name."""
    tests: dict[str, Any] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        counts = {one.attrib["name"]: int(one.attrib["value"]) for one in case.iter("property")}
        failed = any(case.find(word) is not None for word in ("failure", "error", "skipped"))
        seconds = round(float(case.attrib["time"]), 1)
        about_it = {"size": size, "seconds": seconds, "date": about["date"], "commit": about["commit"]}
        tests[case.attrib["name"]] = {"failed": failed, "counts": counts} | about_it
    return tests


def totals(tests: dict[str, Any]) -> dict[str, Any]:
    """Sums over the tests of one enumerator."""
    counts: Counter[str] = Counter()
    for one in tests.values():
        counts.update(one["counts"])
    return {
        "tests": len(tests),
        "failed": sum(one["failed"] for one in tests.values()),
        "seconds": round(sum(one["seconds"] for one in tests.values()), 1),
        "counts": dict(counts),
    }


def main() -> int:
    """Run, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="ENUMERATOR", help=f"of {', '.join(ENUMERATORS)}; default: all")
    parser.add_argument("-k", help="which tests of it, as pytest's -k")
    parser.add_argument("--size", type=int, help="in place of the usual one")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.what) - set(ENUMERATORS)):
        parser.error(f"there is no enumerator {unknown[0]!r}: {', '.join(ENUMERATORS)}")
    codes: list[int] = []
    for what in asked.what or ENUMERATORS:
        about, size = surroundings(["tools/enumerated.py", *sys.argv[1:]]), asked.size or ENUMERATORS[what][2]
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            codes.append(run(what, ["-k", asked.k] if asked.k else [], size, report))
            ran = told(report, about, size) if report.exists() else {}
        data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        tests = data.get(what, {}).get("each", {}) | ran
        data |= about | {what: totals(tests) | {"each": {name: tests[name] for name in sorted(tests)}}}
        FILE.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "tools" / "figures.py")], check=True)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
