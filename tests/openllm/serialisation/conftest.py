from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.openllm.serialisation import fake_hub, small

from openllm.serialisation.store import Store


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's store, hub cache or tokenizer cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(small.options(tmp_path / "home"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[fake_hub.Hub]:
    """A running hub with a whole model, `org/tiny`, and files nobody wants."""
    with fake_hub.running(tmp_path / "origin") as hub:
        yield hub
