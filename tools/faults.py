#!/usr/bin/env python3
"""Meet the faults of tests/faults/faults.yaml and publish how many times each was survived.

    python tools/faults.py [quick | full | chaos] [-k EXPRESSION] [--rounds N] [--missing] [--seconds S]

quick runs each cell as the suite does; full repeats it as the table says, cells that the suite leaves out with it; chaos adds
those that need root or a program of the system; --rounds caps the repetitions. Writes docs/figures/faults.json: what ran takes the
place of what stood there, what did not run keeps its own date and commit, and a cell that never ran says so. With --missing
only those rounds run that a cell still lacks, and are added to what it has, each portion with its date and commit; --seconds
ends a portion in time. tools/figures.py puts all into docs/reliability.md. Ends with pytest's exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "figures" / "faults.json"
sys.path.insert(0, str(ROOT))

from tests.faults import table  # noqa: E402 - the tests are no package that is installed

from openllm.bench.surroundings import surroundings  # noqa: E402

NOT_RUN = "not run"


def planned(lane: str, at_most: int, before: dict[str, Any]) -> dict[str, int]:
    """Rounds of each cell of a lane that are to be run; a cell that lacks none is left out.

    Args:
        at_most: of each.
        before: the cells that the file holds and that count; one with a failed round lacks nothing: it is run anew.
    """
    plan: dict[str, int] = {}
    for cell in table.cells(table.read()):
        stated = cell.rounds.quick if lane == "quick" else cell.rounds.full
        rounds = min(at_most, stated - before.get(cell.name, {}).get("of", 0))
        if table.in_lane(cell, lane) and rounds > 0:
            plan[cell.name] = rounds
    return plan


def run(lane: str, words: list[str], tally: Path, plan: dict[str, int], seconds: float) -> int:
    """Run the cells; their counts are in `tally` afterwards, one JSON object a line."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"OPENLLM_TEST_FAULTS": lane, "OPENLLM_TEST_FAULTS_TALLY": str(tally)}
    environment |= {"OPENLLM_TEST_FAULTS_PLAN": json.dumps(plan)}
    environment |= {"OPENLLM_TEST_FAULTS_UNTIL": str(time.time() + seconds)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def counted(tally: Path) -> dict[str, dict[str, Any]]:
    """What ran, by cell; one that only looked up tests which had not run counts for nothing."""
    lines = [json.loads(line) for line in tally.read_text(encoding="utf-8").splitlines()] if tally.exists() else []
    return {line.pop("cell"): line for line in lines if line["of"]}


def added(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A cell's counts and those of a further run, as one; each run is listed."""
    sums = {name: before[name] + now[name] for name in ("survived", "of")}
    runs = [*before.get("runs", [before]), now]
    return now | sums | {"seconds": round(before["seconds"] + now["seconds"], 1), "runs": runs}


def figures(
    ran: dict[str, dict[str, Any]], before: dict[str, Any], about: dict[str, Any], *, add: bool = False
) -> dict[str, Any]:
    """The file's content: every row of the table with what each backend survived, as text and as numbers.

    Args:
        ran: this run's cells.
        before: what the file held.
        about: date, commit and machine of this run.
        add: whether they add to what the file held of them, or take its place.
    """
    listed = table.read()
    cells = dict(before.get("cells", {}))
    for name, told in ran.items():
        now = told | {"date": about["date"], "commit": about["commit"]}
        cells[name] = added(cells[name], now) if add and name in cells else now
    known = {cell.name for cell in table.cells(listed)}
    cells = {name: cells[name] for name in sorted(cells) if name in known}
    rows: list[dict[str, Any]] = []
    for row in listed.rows:
        shown: dict[str, Any] = {"id": row.id, "group": row.group, "title": row.title, "holds": row.holds}
        for backend, spec in row.cells.items():
            cell = cells.get(f"{row.id}-{backend}")
            shown[backend] = "—" if spec.why_not else NOT_RUN if cell is None else f"{cell['survived']} of {cell['of']}"
        rows.append(shown)
    totals = {
        "cells": len(known),
        "run": len(cells),
        "survived": sum(cell["survived"] for cell in cells.values()),
        "of": sum(cell["of"] for cell in cells.values()),
    }
    return about | {"reasons": dict(listed.reasons), "totals": totals, "rows": rows, "cells": cells}


def main() -> int:
    """Run, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lane", nargs="?", choices=table.LANES, default="full")
    parser.add_argument("-k", default="test_cell", help="which cells, as pytest's -k")
    parser.add_argument("--rounds", type=int, default=1000, help="at most so many of each cell")
    parser.add_argument("--missing", action="store_true", help="run what the file lacks, and add to it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further round after so long")
    asked = parser.parse_args()
    before: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    plan = planned(asked.lane, asked.rounds, before.get("cells", {}) if asked.missing else {})
    if not plan:
        print("no cell of this lane lacks a round")
        return 0
    about = surroundings(["tools/faults.py", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what ran until then is written all the same
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally.jsonl"
        try:
            words = ["tests/faults/test_table.py", "-k", f"test_cell and ({asked.k})"]
            code = run(asked.lane, words, tally, plan, asked.seconds)
        finally:
            made = figures(counted(tally), before, about, add=asked.missing)
            FILE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "tools" / "figures.py")], check=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
