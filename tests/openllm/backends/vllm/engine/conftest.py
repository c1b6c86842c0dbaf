"""Fixtures of the tests that run vLLM in this process; see the conftest above for how they are started."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny_models import tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny checkpoints of this session are kept."""
    return tmp_path_factory.getbasetemp() / "tiny"


@pytest.fixture(scope="session")
def folder(checkpoints: Path) -> Path:
    """A tiny Llama."""
    return tiny_checkpoint("llama", checkpoints, wide=True)
