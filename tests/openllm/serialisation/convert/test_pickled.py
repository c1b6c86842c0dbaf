"""Pickle weights become safetensors in a child that has no network and runs nothing of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.openllm.serialisation import small
from tests.tiny_models import sentence_encoder

from openllm.serialisation import formats, importing, pickled, sandbox
from openllm.serialisation.store import Store
from openllm_core.errors import CorruptModel, OpenLLMError, UnsafeConfiguration, from_dict


def folder_of(path: Path, content: Any, name: str = "pytorch_model.bin", **facts: Any) -> Path:
    """A model folder with one pickle file."""
    small.model_folder(path, weights=False)
    torch.save(content, path / name, **facts)
    return path


class Trap:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("old", [False, True])
def test_names_numbers_and_sharing_survive(tmp_path: Path, old: bool) -> None:
    """Tied, transposed and bf16 tensors come out equal, from the present file format and from the one before torch 1.6."""
    shared = torch.arange(6.0).reshape(2, 3)
    weights = {"a": shared, "b": shared, "c": shared.t(), "d": torch.ones(2, dtype=torch.bfloat16)}
    source = folder_of(tmp_path / "m", weights, _use_new_zipfile_serialization=not old)
    out = small.model_folder(tmp_path / "out", weights=False)
    formats.convert_pickle(source, out)
    found = load_file(out / "model.safetensors")
    assert sorted(found) == sorted(weights)
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == weights[name].dtype for name in weights)


def test_a_sentence_encoder_keeps_its_folders(tmp_path: Path) -> None:
    """Its pooling is described in a folder of its own, which lies beside the converted weights as beside the pickle."""
    source = sentence_encoder(tmp_path / "m")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")
    store = Store(small.options(tmp_path / "home"))
    entry = importing.from_folder(store, source, trust=importing.Trust(pickle_weights=True))
    assert load_file(entry.path / "model.safetensors").keys() == weights.keys()
    pooling = "1_Pooling/config.json"
    assert (entry.path / pooling).read_bytes() == (source / pooling).read_bytes()
    assert pooling in {record.path for record in entry.manifest.files}


def test_shards_keep_their_division(tmp_path: Path) -> None:
    """Several files become as many, with an index that names each tensor's file and the size of all."""
    source = folder_of(tmp_path / "m", {"a": torch.zeros(2)}, "pytorch_model-00001-of-00002.bin")
    torch.save({"state_dict": {"b": torch.ones(3)}}, source / "pytorch_model-00002-of-00002.bin")
    torch.save({"lr": 1}, source / "training_args.bin")
    out = small.model_folder(tmp_path / "out", weights=False)
    pickled.convert(source, out)
    index = json.loads((out / formats.INDEX_FILE).read_text())
    assert index["weight_map"] == {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    assert index["metadata"]["total_size"] == 20
    formats.check_weights(formats.inspect(out))


def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    """The call it asks for is named in one line with exit code 78, and is not made."""
    canary = tmp_path / "canary"
    source = folder_of(tmp_path / "m", {"a": Trap(os.system, f"touch {canary}")})
    with pytest.raises(UnsafeConfiguration, match=r"system") as caught:
        formats.convert_pickle(source, small.model_folder(tmp_path / "out", weights=False))
    assert not canary.exists() and "\n" not in caught.value.message and caught.value.exit_code == 78


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, {"a": {"b": torch.ones(1)}}])
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    """Optimizer states, lists and the like are one readable error."""
    source = folder_of(tmp_path / "m", content)
    with pytest.raises(CorruptModel, match=r"pytorch_model\.bin"):
        pickled.convert(source, tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, cut: int) -> None:
    """Cut anywhere, it is damaged and says so."""
    source = folder_of(tmp_path / "m", {"a": torch.ones(100)})
    file = source / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CorruptModel, match=r"pytorch_model\.bin"):
        pickled.convert(source, tmp_path)


def in_fork(body: Callable[[], None]) -> int:
    """Exit code of a fork that runs `body`: 0, or 1 when it raised."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK])
def test_the_child_has_no_network(family: int) -> None:
    """After `forbid_network` no socket but a Unix one can be made, nor by a process started from there."""

    def refused() -> None:
        assert sandbox.forbid_network()
        socket.socketpair()
        with pytest.raises(PermissionError):
            socket.socket(family, socket.SOCK_DGRAM)

    def inherited() -> None:
        assert sandbox.forbid_network()
        assert os.spawnlp(os.P_WAIT, "python3", "python3", "-c", f"import socket; socket.socket({int(family)}, 2)") == 1

    assert in_fork(refused) == 0
    assert in_fork(inherited) == 0


def test_the_conversion_itself_runs_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converting child tries a socket, by a module planted for the test, and is refused."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(
        "import atexit, socket\n"
        "def probe():\n"
        "    try: socket.socket(); word = 'open'\n"
        "    except PermissionError: word = 'refused'\n"
        f"    open({str(tmp_path / 'seen')!r}, 'w').write(word)\n"
        "atexit.register(probe)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(planted))
    source = folder_of(tmp_path / "m", {"a": torch.ones(1)})
    formats.convert_pickle(source, small.model_folder(tmp_path / "out", weights=False))
    assert (tmp_path / "seen").read_text() == "refused"


def test_an_error_of_the_child_keeps_its_class(tmp_path: Path) -> None:
    """What the child refuses arrives as one of our errors, never as a traceback."""
    source = small.model_folder(tmp_path / "m", weights=False)
    (source / "pytorch_model.bin").write_bytes(b"nothing of the kind")
    with pytest.raises(OpenLLMError, match="cannot be converted"):
        formats.convert_pickle(source, small.model_folder(tmp_path / "out", weights=False))


def test_pickle_is_not_read_where_the_network_stays(tmp_path: Path) -> None:
    """Where the kernel refuses to take the network away, as without seccomp, the child reads nothing and says so: exit code
    78."""
    source = folder_of(tmp_path / "m", {"a": Trap(os.mkdir, str(tmp_path / "ran"))})
    code = (
        "import runpy, sys; from openllm.serialisation import sandbox\n"
        "sandbox.forbid_network = lambda: False\n"
        "runpy.run_module('openllm.serialisation.convert', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, "pickle", str(source), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    refused = from_dict(json.loads(done.stdout))
    assert isinstance(refused, UnsafeConfiguration) and refused.exit_code == 78
    assert "network" in refused.message and "safetensors" in (refused.hint or "")
    assert not (tmp_path / "ran").exists() and not list(tmp_path.glob("*.safetensors"))
