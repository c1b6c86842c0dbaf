#!/usr/bin/env python3
"""Meet the faults of tests/faults/faults.yaml and publish how many times each was survived.

    python tools/faults.py [quick | full | chaos] [-k EXPRESSION] [--rounds N]

quick runs each cell as the suite does; full repeats it as the table says, cells that the suite leaves out with it; chaos adds
those that need root or a program of the system; --rounds caps the repetitions. Writes docs/figures/faults.json: what ran takes the place of what stood there,
what did not run keeps its own date and commit, and a cell that never ran says so. tools/figures.py puts it into
docs/reliability.md. Ends with pytest's exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "figures" / "faults.json"
sys.path.insert(0, str(ROOT))

from tests.faults import table  # noqa: E402 - the tests are no package that is installed

from openllm.bench.surroundings import surroundings  # noqa: E402

NOT_RUN = "not run"


def run(lane: str, words: list[str], tally: Path, at_most: int) -> int:
    """Run the cells; their counts are in `tally` afterwards, one JSON object a line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"OPENLLM_TEST_FAULTS": lane, "OPENLLM_TEST_FAULTS_TALLY": str(tally)}
    environment["OPENLLM_TEST_FAULTS_ROUNDS"] = str(at_most)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def counted(tally: Path) -> dict[str, dict[str, Any]]:
    """What ran, by cell; one that only looked up tests which had not run counts for nothing."""
    lines = [json.loads(line) for line in tally.read_text(encoding="utf-8").splitlines()] if tally.exists() else []
    return {line.pop("cell"): line for line in lines if line["of"]}


def figures(ran: dict[str, dict[str, Any]], before: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The file's content: every row of the table with what each backend survived, as text and as numbers.

    Args:
        ran: this run's cells.
        before: what the file held.
        about: date, commit and machine of this run.
    """
    listed = table.read()
    cells = dict(before.get("cells", {}))
    for name, told in ran.items():
        cells[name] = told | {"date": about["date"], "commit": about["commit"]}
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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally.jsonl"
        code = run(asked.lane, ["tests/faults/test_table.py", "-k", asked.k], tally, asked.rounds)
        ran = counted(tally)
    before: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    about = surroundings(["tools/faults.py", *sys.argv[1:]])
    FILE.write_text(json.dumps(figures(ran, before, about), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "tools" / "figures.py")], check=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
