"""Fixtures of the tests that run vLLM in this process; see the conftest above for how they are started."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny checkpoints of this session are kept."""
    return tmp_path_factory.getbasetemp() / "tiny"
