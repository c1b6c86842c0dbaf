"""What the tests of the torch backend share: tiny checkpoints, one compute thread, a cache folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from tests.tiny_models import REMOTE, tiny_checkpoint

from openllm.backends import checkpoint as checkpoints_
from openllm.backends.torch import backend as torch_backend
from openllm.backends.torch import loading, tuning
from openllm.backends.torch.model import LoadedModel
from openllm.backends.torch.scheduler import Limits, Scheduler
from openllm_core.options import EngineOptions

MakeScheduler = Callable[..., Scheduler]


def load_model(path: Path, **options: Any) -> tuple[LoadedModel, Limits]:
    """A loaded model and its default limits, without a backend around it."""
    asked = EngineOptions(model_path=str(path), device="cpu", **options)
    checkpoint = checkpoints_.read(path)
    device = torch.device("cpu")
    choice = tuning.choose(asked, checkpoint, device, lambda text, share: None)
    model = loading.load(asked, checkpoint, choice, device, lambda text, share: None)
    choice = tuning.confirm(asked, checkpoint, choice, model)
    return model, torch_backend.describe(model, asked, checkpoint, choice)[0]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny checkpoints of this session are kept."""
    return tmp_path_factory.getbasetemp() / "tiny"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One thread (these models are too small for two), and no memory of other starts."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OPENLLM_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def _models() -> dict[tuple[Any, ...], tuple[LoadedModel, Limits]]:
    return {}


@pytest.fixture
def make_scheduler(checkpoints: Path, _models: dict[tuple[Any, ...], tuple[LoadedModel, Limits]]) -> MakeScheduler:
    """A scheduler over a tiny model, by the name of its architecture; limits can be overridden."""

    def make(name: str = "llama", *, attention: str = "auto", **limits: int) -> Scheduler:
        key = (name, attention)
        if key not in _models:
            path = tiny_checkpoint(name, checkpoints)
            _models[key] = load_model(path, attention=attention, trust_remote_code=name in REMOTE)
        model, usual = _models[key]
        return Scheduler(model, attrs.evolve(usual, **limits))

    return make
