"""The torch backend passes the suite every backend must pass, decoder-only and encoder-decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny_models import tiny_checkpoint

from openllm.backends.base import Backend
from openllm.backends.torch import load
from openllm.testing import BackendConformance
from openllm_core.options import EngineOptions


def _load(path: Path) -> Backend:
    return load(EngineOptions(model_path=str(path), device="cpu"), lambda text, share: None)


class TestLlama(BackendConformance):
    """A decoder-only model."""

    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoints: Path) -> None:
        self.path = tiny_checkpoint("llama", checkpoints)

    def load(self) -> Backend:
        """A fresh backend on a tiny Llama."""
        return _load(self.path)


class TestT5(BackendConformance):
    """An encoder-decoder model."""

    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoints: Path) -> None:
        self.path = tiny_checkpoint("t5", checkpoints)

    def load(self) -> Backend:
        """A fresh backend on a tiny T5."""
        return _load(self.path)


class TestMamba(BackendConformance):
    """An architecture whose rows cannot share a window: each runs alone."""

    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoints: Path) -> None:
        self.path = tiny_checkpoint("mamba", checkpoints)

    def load(self) -> Backend:
        """A fresh backend on a tiny Mamba."""
        return _load(self.path)
