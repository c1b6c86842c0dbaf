"""Generation fields as flags of `start` and keys of its configuration file, and what help and completion say of a family."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from openllm.cli import cli
from openllm.cli.generation import configure
from openllm.tokenizer import byte_tokenizer
from openllm_core.config.llm import LLMConfig
from openllm_core.errors import InvalidSetting
from openllm_core.families import registry
from openllm_core.fields import openai_defaults

Run = Callable[..., Result]


def completed(*words: str, incomplete: str) -> list[str]:
    """What a shell would offer after these words."""
    shell = ShellComplete(cli, {}, "openllm", "_OPENLLM_COMPLETE")
    return [item.value for item in shell.get_completions(list(words), incomplete)]


def test_plain_help_stays_short_and_says_where_the_fields_are(run: Run):
    """`start --help` lists settings alone; the fields come with a family."""
    text = run("start", "--help").stdout
    assert "--top-k" not in text
    assert "openllm start FAMILY --help" in text


@pytest.mark.parametrize("name", ["llama", "opt", "mpt", "flan-t5", "smollm"])
def test_a_familys_help_shows_its_ids_fields_and_defaults(run: Run, name: str):
    """Every official id, every field that can be a flag, the family's own default."""
    spec = registry.find(name)
    text = " ".join(run("start", name, "--help").stdout.split())
    for model_id in spec.model_ids:
        assert model_id in text
    for option in LLMConfig.for_model(spec, environ={}).to_click_options():
        assert option.flag.partition("/")[0] in text
    assert f"env: OPENLLM_GENERATION_MAX_NEW_TOKENS; default: {spec.generation.get('max_new_tokens', 20)}]" in text


def test_a_spelling_of_the_family_is_enough(run: Run):
    """`flan_t5` and `flan-t5` show the same page."""
    assert run("start", "flan_t5", "-h").stdout == run("start", "flan-t5", "--help").stdout


def test_completion_offers_ids_families_and_fields():
    """`--model-id` completes the official ids of MODEL's family, MODEL the families, a flag the fields too."""
    assert completed("start", "opt", "--model-id", incomplete="") == registry.find("opt").model_ids
    assert completed("start", "opt", "--model-id", incomplete="FACEBOOK/opt-1") == [
        "facebook/opt-125m",
        "facebook/opt-1.3b",
    ]
    assert "facebook/opt-125m" in completed("start", "--model-id", incomplete="face")
    assert completed("start", incomplete="flan") == ["flan-t5"]
    assert completed("start", "opt", incomplete="--format-") == ["--format-outputs"]
    assert "--temperature" in completed("start", incomplete="--temp")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--temperature", "3"], 78, "--temperature: temperature must be <= 2."),
        (["--top-k", "x"], 2, "'--top-k'"),
        (["--temperatur", "1"], 2, "Did you mean '--temperature'?"),
        (["--format-outputs"], 78, "--format-outputs: a field of opt, not of this model."),
        (["--bad-words-ids", "[["], 2, "--bad-words-ids: '[[' is not JSON."),
        (["--num-beams", "4"], 2, "num_beams"),
    ],
)
def test_a_wrong_value_names_the_flag(run: Run, words: list[str], code: int, message: str):
    """Range, type, name, another family's field, and what the backend cannot do: refused before anything is loaded."""
    result = run("start", "--backend", "echo", "--port", "0", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature: 3", "key 'temperature': temperature must be <= 2."),
        ("temprature: 1", "unknown key 'temprature'."),
        ("format_outputs: true", "key 'format_outputs': a field of opt, not of this model."),
    ],
)
def test_a_wrong_value_in_the_file_names_the_key(run: Run, tmp_path: Path, text: str, message: str):
    """The configuration file takes the same fields, held to the same rules."""
    file = tmp_path / "c.yaml"
    file.write_text(text + "\n")
    result = run("start", "--backend", "echo", "--port", "0", "--config", str(file))
    assert result.exit_code == 78
    assert message in result.stderr


def test_typed_beats_environment_beats_file_beats_family(monkeypatch: pytest.MonkeyPatch):
    """One precedence for fields too; what is said at the start holds on every route."""
    monkeypatch.setenv("OPENLLM_GENERATION_TOP_P", "0.6")
    monkeypatch.setenv("OPENLLM_CONFIG", '{"top_k": 7}')
    file = {"temperature": 0.1, "top_p": 0.2, "top_k": 3, "presence_penalty": 0.4, "max_new_tokens": 9}
    made = configure("opt", {"temperature": 0.5}, file)
    assert [made[name] for name in ("temperature", "top_p", "top_k", "max_new_tokens")] == [0.5, 0.6, 7, 9]
    assert configure("llama", {"temperature": 0.5}, {})["best_of"] == registry.find("llama").sampling["best_of"]
    assert openai_defaults(made)["presence_penalty"] == 0.4
    assert openai_defaults(made)["temperature"] == 0.5


def test_fields_of_the_family_are_its_own():
    """An own field is taken by its family, with its type and choices checked."""
    assert configure("mpt", {"prompt_type": "chat"}, {})["prompt_type"] == "chat"
    with pytest.raises(InvalidSetting, match="--prompt-type"):
        configure("mpt", {"prompt_type": "poem"}, {})


def test_every_kind_of_field_can_be_typed():
    """Repeatable, paired, JSON and switch options come out as their fields want them."""
    start = cli.get_command(click.Context(cli), "start")
    assert start is not None
    seen: list[dict[str, object]] = []

    def look(ctx: click.Context) -> None:
        from openllm.cli.generation import typed_fields

        seen.append(typed_fields(ctx, dict(ctx.params)))

    words = (
        "opt --stop a --stop b --exponential-decay-length-penalty 3 1.5 --bad-words-ids [[1,2],[3]] "
        "--no-use-cache --format-outputs --suppress-tokens 4 --logprobs 2"
    )
    with start.make_context("start", words.split()) as ctx:
        look(ctx)
    assert seen == [
        {
            "stop": ["a", "b"],
            "exponential_decay_length_penalty": [3, 1.5],
            "bad_words_ids": [[1, 2], [3]],
            "use_cache": False,
            "format_outputs": True,
            "suppress_tokens": [4],
            "logprobs": 2,
        }
    ]


def test_a_plain_start_does_not_pay_for_the_fields():
    """Parsing a start without field flags imports no configuration classes."""
    code = (
        "import sys\nimport click\nfrom openllm.cli.start import command\n"
        "command.make_context('start', ['--port', '0', '--backend', 'echo'])\n"
        "print('openllm_core.config.llm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_typed_field_reaches_the_server(tmp_path: Path):
    """`start --max-new-tokens 3` is what `/v1/metadata` shows and what a request that says nothing gets."""
    import httpx

    words = [sys.executable, "-m", "openllm", "start", "--backend", "echo"]

    process = subprocess.Popen(
        [*words, "--port", "0", "-o", "porcelain", "--max-new-tokens", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        configuration = json.loads(httpx.get(endpoint + "/v1/metadata").json()["configuration"])
        assert configuration["generation_config"]["max_new_tokens"] == 3
        answer = httpx.post(endpoint + "/v1/generate", json={"prompt": "abcdef", "llm_config": {}}).json()
        assert answer["responses"] == ["abc"]
    finally:
        process.terminate()
        process.wait(20)


def test_help_of_an_unknown_word_is_the_plain_one():
    """A folder or an unknown name before --help changes nothing."""
    plain = CliRunner().invoke(cli, ["start", "--help"]).stdout
    assert CliRunner().invoke(cli, ["start", "./somewhere", "--help"]).stdout == plain


def test_a_family_default_that_the_backend_cannot_do_is_told_at_start(tmp_path: Path):
    """One line names field, value, family and backend, instead of a value that silently does nothing."""
    (tmp_path / "config.json").write_text('{"architectures": ["FalconForCausalLM"], "model_type": "falcon"}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    byte_tokenizer().inner.save(str(tmp_path / "tokenizer.json"))
    words = [sys.executable, "-m", "openllm", "start", str(tmp_path), "--backend", "echo", "--port", "0"]
    process = subprocess.Popen([*words, "-o", "porcelain"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline().startswith("http://")
    finally:
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert "Ignored        num_beams = 4 of family falcon; echo cannot do it\n" in said
