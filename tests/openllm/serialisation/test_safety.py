from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import safety
from openllm_core.errors import UnsafeConfiguration

ZOO: list[tuple[str, str, Any]] = [
    ("auto_map", "config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}),
    ("auto_map of another repository", "config.json", {"auto_map": {"AutoModel": "evil/repo--modeling.Mine"}}),
    ("auto_map of a tokenizer", "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}),
    ("auto_map of a processor", "processor_config.json", {"auto_map": {"AutoProcessor": "p.P"}}),
    ("auto_map as a bare text", "config.json", {"auto_map": "evil/repo--x.Y"}),
    ("nested auto_map", "config.json", {"text_config": {"auto_map": {"AutoConfig": "c.C"}}}),
    ("auto_map in a list", "config.json", {"layers": [{"deep": [{"auto_map": {"A": "b.C"}}]}]}),
    ("hub attention", "config.json", {"_attn_implementation": "evil/kernel"}),
    ("internal attention", "config.json", {"_attn_implementation_internal": "evil/kernel"}),
    ("internal attention, plain word", "config.json", {"_attn_implementation_internal": "eager"}),
    ("nested hub attention", "config.json", {"vision_config": {"attn_implementation": "evil/kernel"}}),
    ("hub experts", "config.json", {"_experts_implementation": "evil/kernel@main"}),
    ("votes for trust", "config.json", {"trust_remote_code": True}),
    ("votes for trust, nested", "config.json", {"backbone_config": {"trust_remote_code": "yes"}}),
    ("votes for trust in generation", "generation_config.json", {"trust_remote_code": 1}),
    ("code of another repository under any key", "config.json", {"backbone": "evil/repo--modeling.Backbone"}),
    ("custom generation", "generation_config.json", {"custom_generate": "evil/repo"}),
]


@pytest.mark.parametrize(("file", "data"), [(f, d) for _, f, d in ZOO], ids=[name for name, _, _ in ZOO])
def test_what_would_run_code_is_refused_and_the_flag_named(tmp_path: Path, file: str, data: dict[str, Any]) -> None:
    """Each booby trap is exit code 78 with the file and --trust-remote-code named; trusted, it passes."""
    folder = small.model_folder(tmp_path / "m")
    (folder / file).write_text(json.dumps((small.CONFIG if file == "config.json" else {}) | data))
    with pytest.raises(UnsafeConfiguration, match=file.replace(".", r"\.")) as caught:
        safety.check_code(folder, trust_remote_code=False)
    assert "--trust-remote-code" in (caught.value.hint or "") and caught.value.exit_code == 78
    safety.check_code(folder, trust_remote_code=True)


@pytest.mark.parametrize("name", ["modeling_x.py", "x.PY", "lib.so", "x.pyc"])
def test_files_of_code_are_refused(tmp_path: Path, name: str) -> None:
    """A Python file or a shared library beside the weights is enough."""
    folder = small.model_folder(tmp_path / "m")
    (folder / name).write_text("")
    with pytest.raises(UnsafeConfiguration, match=name):
        safety.check_code(folder, trust_remote_code=False)


def test_a_folder_of_custom_generation_is_refused(tmp_path: Path) -> None:
    """transformers runs custom_generate/generate.py."""
    folder = small.model_folder(tmp_path / "m")
    (folder / "custom_generate").mkdir()
    with pytest.raises(UnsafeConfiguration, match="custom_generate"):
        safety.check_code(folder, trust_remote_code=False)


def test_ordinary_models_pass(tmp_path: Path) -> None:
    """Plain implementations, empty maps, templates and vocabularies with odd words are no code."""
    folder = small.model_folder(tmp_path / "m")
    config = small.CONFIG | {"_attn_implementation": "sdpa", "auto_map": {}, "trust_remote_code": False}
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "org/a-b.c", "auto_map": None}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"chat_template": "{{ a/b -- c.d }}\n--- x/y--z.w ---", "added_tokens_decoder": {"0": {"content": "--"}}}
        )
    )
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"auto_map": 1}}}')
    safety.check_code(folder, trust_remote_code=False)
