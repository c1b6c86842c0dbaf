"""What the tests of the torch backend share: tiny checkpoints, one compute thread, a cache folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from openllm.backends.torch.backend import TorchBackend
from openllm_core.options import EngineOptions
from tests.tiny_models import tiny_checkpoint

Load = Callable[..., TorchBackend]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny checkpoints of this session are kept."""
    return tmp_path_factory.getbasetemp() / "tiny"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One thread (these models are too small for two), and no memory of other starts."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OPENLLM_HOME", str(tmp_path / "home"))


@pytest.fixture
def load_tiny(checkpoints: Path) -> Iterator[Load]:
    """Load a tiny model by the name of its architecture; what is loaded is closed afterwards."""
    opened: list[TorchBackend] = []

    def load(name: str = "llama", **options: object) -> TorchBackend:
        path = tiny_checkpoint(name, checkpoints)
        backend = TorchBackend.load(
            EngineOptions(model_path=str(path), device="cpu", **options),  # type: ignore[arg-type]
            lambda text, share: None,
        )
        opened.append(backend)
        return backend

    yield load
    for backend in opened:
        backend.close()
