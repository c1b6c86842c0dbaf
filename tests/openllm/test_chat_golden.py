"""Prompts of current families: their published chat templates, rendered by our sandbox as transformers renders them.

The templates are those of the `trl` wheel (Apache-2.0), which is fetched from the package index, read as an archive and never
installed; the default model brings its own. Families whose template no package carries are named, and are the untested ones.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from openllm.chat import render_chat
from openllm.tokenizer import Tokenizer, byte_tokenizer
from openllm_core.errors import InvalidRequest
from openllm_core.families import registry

TRL = "trl==1.16.0"
TEMPLATES = {
    "llama-chat": ["llama3", "llama3_1", "llama3_2"],
    "qwen": ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_5_think"],
    "gemma": ["gemma", "gemma3", "gemma4_v5"],
    "phi": ["phi3", "phi3_5"],
    "deepseek": ["deepseekv3", "deepseek_r1_distill"],
    "gpt-oss": ["gptoss"],
}
OF_THE_MODEL = {"smollm"}  # the default model's own, below
IN_NO_PACKAGE = {"mistral", "mixtral", "olmo"}
NAMES = [(family, name) for family, names in TEMPLATES.items() for name in names]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

USER = {"role": "user", "content": "Is <b>1 < 2</b> true? é 🙂\n"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2]}}}
ADD = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "A."}}, "required": ["a"]},
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [USER],
    "system": [{"role": "system", "content": "Be kind."}, USER],
    "three turns": [USER, {"role": "assistant", "content": " Yes.\n\n"}, {"role": "user", "content": "Why?"}],
    "thoughts": [
        USER,
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."},
        {"role": "user", "content": "Why?"},
    ],
    "tools": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "3"},
    ],
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> text of every chat template in the pinned wheel."""
    folder = tmp_path_factory.mktemp("trl")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        folder,
        TRL,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = [
            name for name in archive.namelist() if name.startswith("trl/chat_templates/") and name.endswith(".jinja")
        ]
        return {Path(name).stem: archive.read(name).decode() for name in files}


def outcome(make: Any, *refusals: type[Exception]) -> str:
    """What a rendering gives: its text, or that the template refuses the conversation."""
    try:
        return f"renders {make()}"
    except refusals:
        return "refuses"


def compare(tokenizer: Tokenizer, theirs: Any, template: str | None) -> dict[str, str]:
    """Render every conversation with both, in every way a server does; return ours by conversation."""
    from jinja2 import TemplateError

    rendered: dict[str, str] = {}
    for name, messages in CONVERSATIONS.items():
        for tools in ([{"type": "function", "function": ADD}], None):
            for opened in (False, True):
                given: dict[str, Any] = {"add_generation_prompt": opened, "tools": tools}
                ours = outcome(lambda given=given, m=messages: render_chat(tokenizer, m, **given), InvalidRequest)
                if template is not None:
                    given["chat_template"] = template
                wanted = outcome(
                    lambda given=given, m=messages: theirs.apply_chat_template(m, tokenize=False, **given),
                    TemplateError,
                    TypeError,
                )
                assert ours == wanted, (name, bool(tools), opened)
                rendered[name] = ours
    return rendered


def test_every_current_family_is_accounted_for() -> None:
    """Each newer family has templates here, brings its own, or is known to be untested."""
    newer = {family.name for family in registry.built_in() if family.compat_family != family.name}
    assert newer == set(TEMPLATES) | OF_THE_MODEL | IN_NO_PACKAGE


@pytest.mark.network
@pytest.mark.parametrize(("family", "name"), NAMES, ids=[f"{family}:{name}" for family, name in NAMES])
def test_rendered_as_transformers_does(templates: dict[str, str], family: str, name: str) -> None:
    """Character by character what `apply_chat_template` gives: turns, system text, thoughts, tools and their results."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, "<unk>")), **SPECIAL
    )
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = templates[name]
    tokenizer.special_tokens = dict(SPECIAL)
    rendered = compare(tokenizer, theirs, templates[name])
    assert "Is <b>1 < 2</b> true? é 🙂" in rendered["one turn"]
    assert rendered["three turns"].index("Yes.") < rendered["three turns"].index("Why?")


@pytest.mark.network
@pytest.mark.timeout(480)
def test_the_default_model_is_asked_as_it_was_trained(store: dict[str, str]) -> None:
    """With the template that stands in its own files."""
    from transformers import AutoTokenizer

    folder = next(Path(store["BENTOML_HOME"]).glob("models/*smollm*/*/tokenizer.json")).parent
    rendered = compare(Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder), None)
    assert "<|im_start|>user\nIs <b>1 < 2</b> true? é 🙂" in rendered["one turn"]
