"""Options made from settings, and the configuration file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from tests.openllm.serialisation.small import model_folder

from openllm.cli.command import Command, normalise
from openllm.cli.options import CLASSES, Settings, config_option, read_settings, setting_options
from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.settings import flag_of, settings_of

Run = Callable[..., Result]


def _read(*words: str) -> Settings:
    found: list[Settings] = []

    @click.command(cls=Command)
    @setting_options(*CLASSES)
    @config_option
    def command(config: Path | None, **typed: Any) -> None:
        found.append(read_settings(typed, config))

    result = CliRunner().invoke(command, list(words), standalone_mode=False)
    if result.exception:
        raise result.exception
    return found[0]


def test_every_setting_with_a_flag_is_an_option_of_start(run: Run):
    """`start --help` shows each flag, its help and its variable: one source for all of them."""
    text = " ".join(run("start", "--help").stdout.split())
    for cls in CLASSES:
        for name, (_, fact) in settings_of(cls).items():
            if flag_of(name, fact):
                assert flag_of(name, fact) in text
                assert fact.help in text
                assert fact.typed_only or fact.env is None or f"env: {fact.env}" in text


def test_devices_may_be_listed_or_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`--device 0 --device 2,7`, the variable `0,2,7` and a list in the file mean the same."""
    file = tmp_path / "openllm.toml"
    file.write_text("device = [0, 2, 7]\n")
    assert _read("--device", "0", "--device", "2,7").engine.device == "0,2,7"
    assert _read("--config", str(file)).engine.device == "0,2,7"
    monkeypatch.setenv("OPENLLM_DEVICE", "0,2,7")
    assert _read().engine.device == "0,2,7"
    assert _read("--device", "cpu").engine.device == "cpu"


def test_flags_win_over_environment_over_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Precedence: typed, then variable, then file, then default."""
    file = tmp_path / "openllm.toml"
    file.write_text("port = 1\nrestarts = 1\nmax-queue = 1\n")
    monkeypatch.setenv("OPENLLM_PORT", "2")
    monkeypatch.setenv("OPENLLM_RESTARTS", "2")
    settings = _read("--port", "3", "--config", str(file))
    assert (settings.server.port, settings.server.restarts, settings.server.max_queue) == (3, 2, 1)
    assert [settings.sources[name] for name in ("port", "restarts", "max_queue", "host")] == [
        "explicit",
        "environment",
        "file",
        "default",
    ]


def test_forms_of_values():
    """Repeatable flags gather, pairs become a dict, switches have a negative, old spellings work."""
    settings = _read(
        *("--served-model-name", "a", "--served-model-name", "b", "--engine-arg", "x=1=2", "--cors", "--no-strict"),
        *("--quantise", "int8", "-p", "0", "--timeout", "5"),
    )
    assert settings.server.served_model_name == ("a", "b")
    assert settings.engine.engine_arg == {"x": "1=2"}
    assert settings.server.cors == ("*",)
    assert settings.server.strict is False
    assert (settings.engine.quantize, settings.server.port, settings.server.server_timeout) == ("int8", 0, 5.0)


@pytest.mark.parametrize(("old", "new"), [("8bit", "int8"), ("4bit", "int4"), ("nf4", "int4")])
def test_old_names_of_quantisations_are_answered_with_the_new_ones(run: Run, old: str, new: str):
    """--quantize 8bit and 4bit are wrong usage, and the hint is what to type instead."""
    result = run("start", "--quantize", old)
    assert result.exit_code == 2
    assert f"Did you mean {new}?" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "abc"], "--port: 'abc' is not a whole number."),
        (["--port", "70000"], "--port: 70000 is not <= 65535."),
        (["--dtype", "float23"], "--dtype: 'float23' is not one of auto, float32, bfloat16, float16. Did you mean"),
        (["--engine-arg", "x"], "--engine-arg: 'x' is not KEY=VALUE."),
        (["--server-timeout", "nan"], "--server-timeout: 'nan' is not a finite number."),
        (["--prot", "1"], "--prot"),
    ],
)
def test_a_wrong_flag_is_wrong_usage(run: Run, words: list[str], message: str):
    """What was typed wrong ends with 2 and names the flag, the text and what would do."""
    result = run("start", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_wrong_variable_is_wrong_configuration(run: Run, monkeypatch: pytest.MonkeyPatch):
    """What the environment has wrong ends with 78 and names the variable."""
    monkeypatch.setenv("OPENLLM_PORT", "abc")
    result = run("start")
    assert result.exit_code == 78
    assert "OPENLLM_PORT: 'abc' is not a whole number." in result.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'model = "opt"\nmodel-id = "facebook/opt-125m"\nport = 8\nserved_model_name = ["a"]'),
        ("c.yaml", "model: opt\nmodel-id: facebook/opt-125m\nport: 8\nserved_model_name: [a]"),
        ("c.json", '{"model": "opt", "model-id": "facebook/opt-125m", "port": 8, "served_model_name": ["a"]}'),
    ],
)
def test_configuration_files(tmp_path: Path, name: str, text: str):
    """TOML, YAML and JSON say the same; dashes and underscores are one; the model may stand there too."""
    (tmp_path / name).write_text(text)
    settings = _read("--config", str(tmp_path / name))
    assert (settings.model, settings.model_id, settings.server.port) == ("opt", "facebook/opt-125m", 8)
    assert settings.server.served_model_name == ("a",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "prot = 1", "unknown key 'prot'"),
        ("c.toml", "port = ", "c.toml"),
        ("c.yaml", "a: [", "c.yaml"),
        ("c.json", "[1]", "not a table"),
        ("c.yaml", "model: [1]", "model: [1] is not text"),
        ("c.toml", "port = 'x'", "key 'port': 'x' is not a whole number"),
    ],
)
def test_a_wrong_configuration_file_is_refused(tmp_path: Path, name: str, text: str, message: str):
    """Unknown keys, wrong syntax and wrong values are refused with the file or the key named."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidSetting) as caught:
        _read("--config", str(tmp_path / name))
    assert message in str(caught.value)


@pytest.mark.parametrize("flag", ["trust_remote_code", "no_auth", "allow_pickle_weights"])
def test_what_must_be_typed_cannot_come_from_a_file(tmp_path: Path, flag: str):
    """Flags that open doors count only when typed."""
    (tmp_path / "c.toml").write_text(f"{flag} = true")
    with pytest.raises(UnsafeConfiguration):
        _read("--config", str(tmp_path / "c.toml"))
    settings = _read("--" + normalise(flag))
    assert getattr(settings.engine, flag, None) or getattr(settings.server, flag, None)


def test_env_shows_values_sources_and_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch):
    """`openllm env` says where each value came from; a key is never shown."""
    monkeypatch.setenv("OPENLLM_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENLLM_PORT", "3131")
    for output in ("pretty", "json", "porcelain"):
        result = run("env", "-o", output)
        assert "3131" in result.stdout
        assert "secret" not in result.output
    assert "port=3131" in run("env", "-o", "porcelain").stdout.splitlines()


@pytest.mark.parametrize("word", ["transformers", "torch", "pt"])
def test_runtime_is_an_older_name_of_backend(run: Run, tmp_path: Path, word: str):
    """`--runtime transformers` means `--backend pt`, for a check and for the tag of an import."""
    checked = run("doctor", "--runtime", word, "-o", "json", str(model_folder(tmp_path / "tiny")))
    (chosen,) = [finding for finding in json.loads(checked.stdout)["findings"] if finding["name"] == "backend"]
    assert chosen["text"] == "pt (asked for)"
    imported = run("import", str(tmp_path / "tiny"), "--runtime", word, "-o", "porcelain")
    assert imported.stdout.startswith("pt-tiny:")


@pytest.mark.parametrize("command", ["start", "doctor"])
def test_ggml_names_what_is_missing(run: Run, command: str):
    """No package runs ggml models: 78, and how a GGUF file is served instead."""
    result = run(command, "--runtime", "ggml", "--port", "0")
    assert result.exit_code == 78
    assert "ggml" in result.stderr + result.stdout and "openllm import FILE.gguf" in result.stderr + result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--api-workers", "4"),
        ("--reload",),
        ("--backlog", "9"),
        ("--env", "conda"),
        ("--return-process",),
        ("--enable-channelz",),
        ("--max-concurrent-streams", "8"),
    ],
)
def test_options_of_former_releases_are_told_to_have_no_effect(run: Run, words: tuple[str, ...]):
    """Old command lines run: what steers nothing any more is one warning, and not on the help page."""
    result = run("start", "--check", "--backend", "echo", "--port", "0", *words)
    assert result.exit_code == 0, result.output
    assert f"Warning: {words[0]} is ignored: " in result.stderr
    assert words[0] + " " not in run("start", "--help").stdout
