"""The vllm backend passes the suite every backend must pass: tiny models of five architectures, in full the default one too.

One engine serves all tests of a class, since vLLM takes seconds to set one up; what closing does is tested on an engine
of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.openllm.backends.vllm.engine.borrowed import Borrowed, engine
from tests.tiny_models import tiny_checkpoint

from openllm.backends.base import Backend
from openllm.backends.vllm.backend import VllmBackend
from openllm.testing import BackendConformance

pytestmark = pytest.mark.timeout(600)


class OnOneEngine(BackendConformance):
    """Runs the suite on loans of one engine."""

    limit_s = 120.0
    architecture = ""
    lender: VllmBackend

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _engine(cls, checkpoints: Path) -> Iterator[None]:
        cls.lender = engine(cls.path(checkpoints))
        yield
        asyncio.run(cls.lender.aclose())

    @classmethod
    def path(cls, checkpoints: Path) -> Path:
        """Folder of the model."""
        return tiny_checkpoint(cls.architecture, checkpoints, wide=True)

    def load(self) -> Backend:
        """A loan of the engine."""
        return Borrowed(self.lender)


class TestLlama(OnOneEngine):
    """Grouped queries, the architecture of most models."""

    architecture = "llama"


class TestFalcon(OnOneEngine):
    """One key-value head for all."""

    architecture = "falcon"


class TestGPTNeoX(OnOneEngine):
    """Attention and feed-forward side by side."""

    architecture = "gpt_neox"


class TestOPT(OnOneEngine):
    """Learned positions."""

    architecture = "opt"


class TestStarCoder(OnOneEngine):
    """GPT-BigCode."""

    architecture = "gpt_bigcode"


class TestDefaultModel(OnOneEngine):
    """SmolLM2-135M-Instruct, in the folder that OPENLLM_TEST_MODEL names; tests/e2e/test_vllm.py serves it anyway."""

    __test__ = "OPENLLM_TEST_MODEL" in os.environ

    @classmethod
    def path(cls, checkpoints: Path) -> Path:
        """The imported default model."""
        return Path(os.environ["OPENLLM_TEST_MODEL"])


class TestAnEngineOfItsOwn(BackendConformance):
    """Closing and loading again within one process."""

    limit_s = 120.0

    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoints: Path) -> None:
        self.checkpoint = tiny_checkpoint("llama", checkpoints, wide=True)

    def load(self) -> Backend:
        """A fresh engine."""
        return engine(self.checkpoint)


for _name in dir(BackendConformance):  # of that class only what closing is about
    if _name.startswith("test_") and _name not in ("test_closing_ends_the_steps", "test_is_healthy_while_it_runs"):
        setattr(TestAnEngineOfItsOwn, _name, None)
