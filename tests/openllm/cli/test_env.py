"""`openllm env`: every setting and generation default, its value, and where the value came from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from click.testing import Result

from openllm.cli.options import CLASSES
from openllm_core.config.generation import GENERATION_FIELDS, SAMPLING_FIELDS
from openllm_core.families import registry
from openllm_core.settings import flag_of, settings_of

Run = Callable[..., Result]


def test_every_setting_and_field_is_listed(run: Run):
    """Whatever has a flag or a variable, and every field of a request, in each output format."""
    names = [name for cls in CLASSES for name, (_, fact) in settings_of(cls).items() if flag_of(name, fact) or fact.env]
    wanted = {"model_id", *names, *GENERATION_FIELDS, *SAMPLING_FIELDS}
    assert wanted <= set(json.loads(run("env", "-o", "json").stdout))
    assert wanted <= {line.partition("=")[0] for line in run("env", "-o", "porcelain").stdout.splitlines()}
    assert wanted <= {line.split()[0] for line in run("env").stdout.splitlines() if line.strip()}


def test_each_source_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """flag, environment, file, family, default: for settings and for generation fields."""
    file = tmp_path / "c.toml"
    file.write_text('queue_timeout = 5\ntop_k = 3\nmodel_id = "org/name"\n')
    monkeypatch.setenv("OPENLLM_PORT", "3131")
    monkeypatch.setenv("OPENLLM_GENERATION_TOP_P", "0.3")
    monkeypatch.setenv("OPENLLM_CONFIG", '{"min_length": 2, "mood": "good"}')
    words = ["--restarts", "1", "--temperature", "0.2", "--config", str(file)]
    rows = json.loads(run("env", "opt", *words, "-o", "json").stdout)
    found = {name: (row["value"], row["source"]) for name, row in rows.items()}
    assert found["restarts"] == (1, "flag")
    assert found["port"] == (3131, "environment")
    assert found["queue_timeout"] == (5.0, "file")
    assert found["model_id"] == ("org/name", "file")
    assert found["host"] == ("127.0.0.1", "default")
    assert found["temperature"] == (0.2, "flag")
    assert found["top_p"] == (0.3, "environment")
    assert found["min_length"] == (2, "environment")
    assert found["mood"] == ("good", "environment")
    assert found["top_k"] == (3, "file")
    assert found["max_new_tokens"] == (registry.find("opt").generation["max_new_tokens"], "family")
    assert found["typical_p"] == (1.0, "default")
    assert rows["format_outputs"]["flag"] == "--format-outputs"


def test_secrets_stay_secret(run: Run, monkeypatch: pytest.MonkeyPatch):
    """A key is shown as set; its text is nowhere."""
    monkeypatch.setenv("OPENLLM_API_KEY", "sk-very-secret")
    for output in ("pretty", "json", "porcelain"):
        text = run("env", "-o", output).stdout
        assert "sk-very-secret" not in text
    assert json.loads(run("env", "-o", "json").stdout)["api_key"]["value"] == "set"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("OPENLLM_PORT", "abc", "OPENLLM_PORT: 'abc' is not a whole number."),
        ("OPENLLM_GENERATION_TEMPERATURE", "warm", "OPENLLM_GENERATION_TEMPERATURE: 'warm' is not JSON."),
        ("OPENLLM_GENERATION_TEMPERATURE", "7", "OPENLLM_GENERATION_TEMPERATURE: temperature must be <= 2."),
        ("OPENLLM_CONFIG", "[1]", "OPENLLM_CONFIG: '[1]' is not a JSON object."),
        ("OPENLLM_DTYPE", "float99", "OPENLLM_DTYPE: 'float99' is not one of"),
    ],
)
def test_a_malformed_variable_is_named_with_its_text(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
):
    """Both stand in the one line; exit 78, stdout empty."""
    monkeypatch.setenv(name, text)
    result = run("env")
    assert (result.exit_code, result.stdout) == (78, "")
    assert message in result.stderr


def test_an_unknown_family_is_refused(run: Run):
    """Near names are told."""
    result = run("env", "flan-t6")
    assert result.exit_code == 66
    assert "flan-t5" in result.stderr


@pytest.mark.parametrize(("columns", "heads"), [(80, 3), (120, 4), (160, 5)])
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_words(columns: int, heads: int):
    """Names, sources and variables stay whole; what does not fit is left out, never cut."""
    # The suite's own settings have long values, which leave less room.
    # pytest's workers have COLUMNS=80 from readline, which would count for more than the terminal itself
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environ["NO_COLOR"] = "1"
    child = pexpect.spawn(sys.executable, ["-m", "openllm", "env"], dimensions=(400, columns), env=environ)
    lines = [line.rstrip() for line in child.read().decode().splitlines()]
    child.close()
    assert len(lines[0].split()) == heads
    assert any(line.split()[:3] == ["max_model_len", "-", "default"] for line in lines)
    assert max(map(len, lines)) <= columns
    assert ("OPENLLM_MAX_MODEL_LEN" in " ".join(lines)) is (heads > 3)
