"""What every backend of OpenLLM must do, held against this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from openllm_bigram import load
from openllm_bigram.train import train

from openllm.backends.base import Backend
from openllm.testing import BackendConformance
from openllm_core.errors import CorruptModel
from openllm_core.options import EngineOptions

TEXT = "she sells sea shells by the sea shore\n\nthe shells she sells are sea shells"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a sentence and a half."""
    folder = tmp_path_factory.mktemp("model")
    train(TEXT, folder)
    return folder


class TestBigram(BackendConformance):
    """The suite of `openllm.testing`; it asks for no more than this."""

    @pytest.fixture(autouse=True)
    def model(self, folder: Path) -> None:
        """Where `load` finds the model."""
        self.folder = folder

    def load(self) -> Backend:
        """A fresh backend."""
        return load(EngineOptions(model_path=str(self.folder)), lambda text, share: None)


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    """With an error of OpenLLM's that names the folder, never with numpy's or the file system's."""
    with pytest.raises(CorruptModel, match=str(tmp_path)):
        load(EngineOptions(model_path=str(tmp_path)), lambda text, share: None)
