"""Each guard of `sabotage.toml` is what its tests test: taken out of a copy of the source, they fail."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from tests.architecture.test_claims import names_in

from . import sabotage, table

LANE = os.environ.get("OPENLLM_TEST_FAULTS", "quick")
GUARDS = sabotage.read()
SHOWN = [guard for guard in GUARDS if guard.quick or LANE != "quick"]

pytestmark = pytest.mark.timeout(300 if LANE == "quick" else 900)


@pytest.mark.parametrize("guard", SHOWN, ids=lambda guard: guard.name)
def test_without_it_its_tests_fail(guard: sabotage.Guard, tmp_path: Path) -> None:
    """Every test it names fails when the guard is gone."""
    assert sabotage.still_passing(guard, tmp_path) == []


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_it_stands_where_it_is_said_to(guard: sabotage.Guard) -> None:
    """Its text is in the source, once; its tests exist, and so do the faults it is for."""
    assert (sabotage.ROOT / guard.file).read_text(encoding="utf-8").count(guard.old) == 1
    assert guard.new != guard.old and guard.tests
    for node in guard.tests:
        file, _, name = node.partition("::")
        assert name.partition("[")[0] in names_in(file), node
    assert set(guard.rows) <= {row.id for row in table.read().rows}


def test_names_are_told_once() -> None:
    """No guard is listed twice."""
    assert [name for name, times in Counter(guard.name for guard in GUARDS).items() if times > 1] == []


def test_every_fault_has_a_guard_or_says_why_not() -> None:
    """Each row of the table has a guard here, or stands among those that say what they are survived by instead."""
    guarded = {row for guard in GUARDS for row in guard.rows}
    without = sabotage.unguarded()
    assert {row.id for row in table.read().rows} - guarded == set(without)
    assert all(without.values())


def test_a_guard_that_no_test_needs_is_found(tmp_path: Path) -> None:
    """Where the tests pass without it, they are named: taking out nothing that matters fails nothing."""
    idle = sabotage.Guard(
        name="a comment",
        rows=(),
        file="openllm-core/src/openllm_core/errors.py",
        old='"""The one exception tree',
        new='"""The same exception tree',
        tests=("tests/core/test_errors.py::" + sorted(names_in("tests/core/test_errors.py"))[0],),
    )
    assert sabotage.still_passing(idle, tmp_path) == list(idle.tests)
