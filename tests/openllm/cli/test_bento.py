"""A Bento in the place of MODEL: whose settings win, what its help page tells, and what it may not ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.openllm.bundle import bentos
from tests.openllm.serialisation import small

from openllm.cli.bento import wanted
from openllm.serialisation import importing
from openllm_core.errors import UnsafeConfiguration

Run = Callable[..., Result]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts the Bento `tiny-service:v1` of a Llama-like model into a store of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("BENTOML_HOME", str(home))
    folder = small.model_folder(tmp_path / "tiny")
    recipe = importing.Recipe(version="v1")
    entry = importing.from_folder(bentos.store_of(home), folder, trust=importing.Trust(), recipe=recipe)
    return lambda **facts: bentos.written(home, entry, **facts)


def test_a_bento_brings_model_settings_and_fields(make: Callable[..., Path]) -> None:
    """What it was built with is what a start gets, adapters by their folder in the Bento."""
    folder = make(settings={"backend": "pt", "max_queue": 7}, fields={"temperature": 0.25})
    what = wanted({}, None, {}, "tiny-service", None)
    assert what.bento is not None and what.bento.tag == "tiny-service:v1"
    assert (what.model, what.model_id) == ("llama", "pt-tiny:v1")
    assert (what.settings.engine.backend, what.settings.server.max_queue) == ("pt", 7)
    assert what.settings.file_fields == {"temperature": 0.25}
    assert what.settings.store.bento_path == str(folder)


def test_typed_and_environment_and_file_win_over_a_bento(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One precedence: typed > environment > configuration file > Bento > default."""
    make(settings={"port": 1, "max_queue": 1, "drain_grace": 1, "ping_interval": 1}, fields={"top_k": 1, "top_p": 0.1})
    monkeypatch.setenv("OPENLLM_MAX_QUEUE", "3")
    config = tmp_path / "c.toml"
    config.write_text("drain_grace = 4\nmax_queue = 4\nport = 4\ntop_k = 4\n")
    settings = wanted({"port": 2}, config, {}, "tiny-service", None).settings
    server = settings.server
    assert (server.port, server.max_queue, server.drain_grace, server.ping_interval) == (2, 3, 4, 1)
    assert settings.file_fields == {"top_k": 4, "top_p": 0.1}


def test_a_bento_ignores_model_id_and_says_so(make: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The model is the Bento's."""
    make()
    what = wanted({}, None, {}, "tiny-service", "org/other")
    assert (what.model, what.model_id) == ("llama", "pt-tiny:v1")
    said = capsys.readouterr().err
    assert said == "Warning: --model-id org/other is ignored: the Bento tiny-service:v1 has its own model.\n"


@pytest.mark.parametrize("setting", ["trust_remote_code", "no_auth", "allow_pickle_weights"])
def test_a_bento_cannot_ask_for_what_counts_only_when_typed(make: Callable[..., Path], setting: str) -> None:
    """Who makes a Bento does not decide what its operator trusts."""
    make(settings={setting: True})
    with pytest.raises(UnsafeConfiguration, match="counts only when typed") as caught:
        wanted({}, None, {}, "tiny-service", None)
    assert caught.value.exit_code == 78
    settings = wanted({setting: True}, None, {}, "tiny-service", None).settings
    assert getattr(settings.server if setting == "no_auth" else settings.engine, setting) is True


def test_the_bento_of_a_container_needs_no_name(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where BENTO_PATH says which Bento we are in, `openllm start` alone serves it; a word means something else."""
    folder = make(settings={"max_queue": 7})
    monkeypatch.setenv("BENTO_PATH", str(folder))
    assert wanted({}, None, {}, None, None).settings.server.max_queue == 7
    other = wanted({}, None, {}, "smollm", None)
    assert (other.model, other.bento) == ("smollm", None)


def test_help_of_a_bento_tells_what_it_serves(run: Run, make: Callable[..., Path]) -> None:
    """`openllm start TAG --help`: its model, settings, adapters, and the flags of its family with their defaults."""
    make(settings={"backend": "pt"}, fields={"temperature": 0.25}, adapters=(bentos.adapter("french"),))
    shown = run("start", "tiny-service:v1", "--help")
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["model", "tiny", "(pt-tiny:v1)"] in lines
    assert ["backend", "pt"] in lines and ["temperature", "0.25"] in lines and ["adapter", "french"] in lines
    assert "--top-k" in shown.stdout and "The Bento tiny-service:v1" in shown.stdout


def test_a_damaged_bento_is_exit_65(run: Run, make: Callable[..., Path]) -> None:
    """A start says which file is wrong; the help page is the general one."""
    (make() / "src" / "openllm.json").write_text("{")
    done = run("start", "tiny-service", "--port", "0")
    assert done.exit_code == 65 and "openllm.json" in done.stderr
    assert run("start", "tiny-service", "--help").exit_code == 0


def test_prune_keeps_what_a_bento_serves(run: Run, make: Callable[..., Path]) -> None:
    """-y deletes no model under a Bento: it says why, exits 74 when nothing is left to do, and names the way out."""
    folder = make()
    done = run("prune", "-y")
    assert done.exit_code == 74, done.stderr
    assert "the Bento tiny-service:v1 serves it" in done.stderr and "--include-bentos" in done.stderr
    assert folder.exists()
    done = run("prune", "-y", "--include-bentos", "-o", "porcelain")
    assert (done.exit_code, done.stdout.split()) == (0, ["tiny-service:v1", "pt-tiny:v1"])
    assert not folder.exists()
