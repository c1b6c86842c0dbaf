#!/usr/bin/env python3
"""Take each guard of tests/faults/sabotage.toml out of a copy of the source, and publish whether its tests noticed.

    python tools/guards.py [WORD ...] [--missing] [--seconds S]

Takes all guards, those whose name holds one of the words, or with --missing those that the file has nothing of yet; --seconds ends
it in time. Writes docs/figures/guards.json after each one; a guard whose text or tests have changed since counts as not
tried. Exit 1 when a guard was gone and one of its tests still passed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "figures" / "guards.json"
sys.path.insert(0, str(ROOT))

from tests.faults import sabotage  # noqa: E402 - the tests are no package that is installed

from openllm.bench.surroundings import surroundings  # noqa: E402


def mark(guard: sabotage.Guard) -> str:
    """Differs where a guard, or what it is shown by, does."""
    told = repr((guard.file, guard.old, guard.new, guard.tests))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def kept(guards: Sequence[sabotage.Guard], before: dict[str, Any]) -> dict[str, Any]:
    """Of what the file held, what is still true of a guard that is there."""
    held = before.get("guards", {})
    return {one.name: held[one.name] for one in guards if held.get(one.name, {}).get("mark") == mark(one)}


def figures(guards: Sequence[sabotage.Guard], tried: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The file's content.

    Args:
        guards: all there are.
        tried: by name, what became of each that was taken out.
        about: date, commit and machine of this run.
    """
    totals = {
        "guards": len(guards),
        "tried": len(tried),
        "noticed": sum(not one["unnoticed_by"] for one in tried.values()),
    }
    not_tried = [one.name for one in guards if one.name not in tried]
    return about | {"totals": totals, "not_tried": not_tried, "guards": {name: tried[name] for name in sorted(tried)}}


def attempt(guard: sabotage.Guard, about: dict[str, Any]) -> dict[str, Any]:
    """Take one out and run its tests."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        unnoticed = sabotage.still_passing(guard, Path(folder))
    return {
        "unnoticed_by": unnoticed,
        "seconds": round(time.monotonic() - began, 1),
        "date": about["date"],
        "commit": about["commit"],
        "mark": mark(guard),
    }


def main() -> int:
    """Choose, try, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="take guards whose name holds one of these")
    parser.add_argument("--missing", action="store_true", help="take those that were not tried yet")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin with no further one after so long")
    asked = parser.parse_args()
    guards = sabotage.read()
    before: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    tried, end, unnoticed = kept(guards, before), time.monotonic() + asked.seconds, False
    about = surroundings(["tools/guards.py", *sys.argv[1:]])
    for guard in guards:
        named = not asked.words or any(word in guard.name for word in asked.words)
        if not named or (asked.missing and guard.name in tried) or time.monotonic() > end:
            continue
        tried[guard.name] = told = attempt(guard, about)
        unnoticed = unnoticed or bool(told["unnoticed_by"])
        print(f"{told['seconds']:6.1f} s  {guard.name}: {told['unnoticed_by'] or 'noticed'}", flush=True)
        FILE.write_text(
            json.dumps(figures(guards, tried, about), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    subprocess.run([sys.executable, str(ROOT / "tools" / "figures.py")], check=True)
    return int(unnoticed)


if __name__ == "__main__":
    sys.exit(main())
