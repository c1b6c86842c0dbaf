"""Send two hundred thousand bad request bodies to the application over echo, and write down what came of them.

    python tools/bad_inputs.py --bad 200000 --json docs/figures/bad_inputs.json

Each field of each route of /openapi.json gets each value of `tests/enumerate/values.py`, then two fields at a time, drawn by
a seed. Whether a body is bad is decided by an independent reading of the JSON schemas (`tests/enumerate/reading.py`); what
must hold of every answer stands in `tests/enumerate/verdict.py`. The application runs in this process, without a socket.
`--portion 2/4` sends a fourth of all bodies, no one of which is in another fourth; `--pairs` leaves out the single fields, for
more pairs by another seed. Each such run adds what it saw to the file.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.enumerate.bad_inputs import Tally, run  # noqa: E402 - the tests are no package that is installed
from tests.enumerate.cases import pairs, routes_of, singles  # noqa: E402
from tests.enumerate.reading import Reading  # noqa: E402
from tests.enumerate.site import site  # noqa: E402

from openllm.bench.surroundings import surroundings  # noqa: E402

ADDED = ("sent", "bad", "server_errors", "wrongly_accepted", "wrongly_refused", "other")


async def measure(
    most_bad: int, most_s: float, seed: int, portion: int, portions: int, *, only_pairs: bool = False
) -> Tally:
    """One portion of the enumeration."""
    with tempfile.TemporaryDirectory() as folder:
        async with site(Path(folder)) as made:
            reading = Reading(made.document)
            routes = routes_of(made.document, reading)
            every = itertools.chain.from_iterable(singles(route) for route in routes if not only_pairs)
            cases = itertools.chain(every, pairs(routes, seed))
            return await run(made, reading, cases, most_bad=most_bad, most_s=most_s, portion=portion, portions=portions)


def totals(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of all portions."""
    made: dict[str, Any] = {name: sum(run[name] for run in runs) for name in ADDED}
    for name in ("by_status", "by_route"):
        keys = sorted({key for run in runs for key in run[name]})
        made[name] = {key: sum(run[name].get(key, 0) for run in runs) for key in keys}
    return made


def main() -> int:
    """Parse the command line, send, print and write; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bad", type=int, default=200_000, help="bad bodies to send, all portions together")
    parser.add_argument("--seed", type=int, default=71, help="of the pairs")
    parser.add_argument("--portion", default="1/1", help="K/N: the K-th of N portions")
    parser.add_argument("--pairs", action="store_true", help="send pairs alone")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long in any case")
    parser.add_argument("--json", type=Path, help="where the counts go; portions of the same enumeration are added")
    args = parser.parse_args()
    number, portions = map(int, args.portion.split("/"))
    began = time.monotonic()
    most_bad = -(-args.bad // portions)
    tally = asyncio.run(measure(most_bad, args.seconds, args.seed, number - 1, portions, only_pairs=args.pairs))
    told = {"seed": args.seed, "portion": args.portion, "pairs": args.pairs} | tally.as_data()
    told["seconds"] = round(time.monotonic() - began, 1)
    before: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    runs = [run for run in before.get("runs", []) if (run["seed"], run["portion"]) != (args.seed, args.portion)]
    runs = sorted([*runs, told], key=lambda run: (run["seed"], run["portion"]))
    command = ["tools/bad_inputs.py", "--bad", "200000", "--json", "docs/figures/bad_inputs.json"]
    result = totals(runs) | {"runs": runs} | surroundings(command)
    print(json.dumps({name: result[name] for name in ADDED}, indent=2))
    for route, sent, fault in tally.faults[:40]:
        print(f"{route} | {sent} | {fault}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
