"""Fixtures of the fault suite: the lab, which starts servers on any backend and keeps one of each running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite(
    *(f"tests.faults.{name}" for name in ("clients", "inject", "lab", "lifecycle", "load", "requests", "system"))
)

from .lab import Lab  # noqa: E402 - scenarios assert, and say what they saw


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Servers for scenarios; all of them end with the session."""
    made = Lab(tmp_path_factory.mktemp("faults"), lambda: request.getfixturevalue("vllm_python"))
    yield made
    for backend in ("echo", "pt", "vllm"):
        made.on(backend).forget()
