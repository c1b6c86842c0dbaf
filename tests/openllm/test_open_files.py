"""How many connections a limit on open files leaves: some files are kept back for the server itself."""

from __future__ import annotations

import resource

import pytest

from openllm import open_files
from openllm_core.errors import ResourceError
from openllm_core.limits import Limits

OPEN = 30


@pytest.mark.parametrize(
    ("soft", "hard", "listeners", "expected"),
    [(100, 100, 1, 46), (100, 100, 2, 23), (100, 1000, 1, 60), (58, 58, 1, 4), (resource.RLIM_INFINITY, -1, 2, 60)],
)
def test_files_are_kept_back(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, listeners: int, expected: int
) -> None:
    """What is open, and what the server itself will need, is no connection's; the limit is raised as far as it may be."""
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(open_files, "_open_now", lambda: OPEN)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert open_files.connections_within(Limits(max_connections=60), listeners) == expected
    assert all(wanted[0] <= hard for wanted in raised)


def test_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that could take three connections does not start."""
    monkeypatch.setattr(open_files, "_open_now", lambda: OPEN)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (57, 57))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(ResourceError, match="57 files"):
        open_files.connections_within(Limits(max_connections=60))
