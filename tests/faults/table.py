"""The fault table as data: reads `faults.yaml`, strictly, into rows and cells.

A row is one fault and what must hold; a cell is that fault on one backend: how it is proven, how often, in which lane. Used by
`test_table.py`, which makes a test of each cell, and by `tools/faults.py`, which runs them all and publishes the counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import attrs
import cattrs
import yaml

FILE = Path(__file__).with_name("faults.yaml")
BACKENDS = ("echo", "pt", "vllm")
LANES = ("quick", "full", "chaos")

Lane = Literal["quick", "full", "chaos"]


@attrs.frozen
class Rounds:
    """How often a cell is survived in the quick lane and in the others."""

    quick: int
    full: int


@attrs.frozen(kw_only=True)
class Spec:
    """A cell as it is written: `why_not`, or how it is proven, by `run` or `tests` or both.

    Attributes:
        run: a scenario, as MODULE.FUNCTION of this folder.
        tests: node ids of tests that inject exactly this fault already; each must pass. Beside a scenario they stand for it in
            the quick lane.
        why_not: why the fault cannot meet this backend: a key of the file's `reasons`.
        lane: the first lane it runs in: `quick` with every run of the suite, `full` by hand, `chaos` where it needs root or
            a program that the tests do not bring.
        quick, full: rounds, where they differ from those of the backend.
    """

    run: str = ""
    tests: tuple[str, ...] = ()
    why_not: str = ""
    lane: Lane = "quick"
    quick: int | None = None
    full: int | None = None


@attrs.frozen(kw_only=True)
class Row:
    """One fault.

    Attributes:
        inject: what is done.
        holds: what must be true nevertheless.
        http, grpc, exit: what a client, a caller and the operator see; empty where there is nothing to see.
        limit: numbers that must not be passed.
        cells: by backend.
    """

    id: str
    group: str
    title: str
    inject: str
    holds: str
    cells: Mapping[str, Spec]
    http: str = ""
    grpc: str = ""
    exit: str = ""
    limit: str = ""


@attrs.frozen(kw_only=True)
class Table:
    """The whole file."""

    rounds: Mapping[str, Rounds]
    reasons: Mapping[str, str]
    rows: tuple[Row, ...]


@attrs.frozen
class Cell:
    """One fault on one backend, with its rounds settled."""

    row: Row
    backend: str
    spec: Spec
    rounds: Rounds

    @property
    def name(self) -> str:
        """As it is called in test ids and figures: `F24-pt`."""
        return f"{self.row.id}-{self.backend}"


@cache
def read(file: Path = FILE) -> Table:
    """The table.

    Raises:
        cattrs.BaseValidationError: an unknown key, or a value of another type than the classes above say.
    """
    made = cattrs.Converter(forbid_extra_keys=True)
    return made.structure(yaml.safe_load(file.read_text(encoding="utf-8")), Table)


def cells(table: Table) -> list[Cell]:
    """Every cell that applies."""
    found: list[Cell] = []
    for row in table.rows:
        for backend, spec in row.cells.items():
            if spec.why_not:
                continue
            usual = table.rounds[backend]
            quick = usual.quick if spec.quick is None else spec.quick
            full = usual.full if spec.full is None else spec.full
            found.append(Cell(row, backend, spec, Rounds(quick, full)))
    return found


def in_lane(cell: Cell, lane: str) -> bool:
    """Whether a lane runs a cell: each runs what the ones before it do."""
    return LANES.index(cell.spec.lane) <= LANES.index(lane)
