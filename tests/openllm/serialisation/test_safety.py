from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import safety
from openllm_core.errors import UnsafeConfiguration

CODE = "open('canary', 'w').close()\n"
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
    ("auto_map of a step of an encoder", "1_Pooling/config.json", {"auto_map": {"AutoModel": "evil/repo--m.M"}}),
    ("votes for trust in a step of an encoder", "2_Dense/config.json", {"inner": {"trust_remote_code": True}}),
    ("code in a folder below", "sub/modeling.py", CODE),
]


def trapped(folder: Path, file: str, data: Any, config: dict[str, Any] = small.CONFIG) -> Path:
    """A model's folder with one file of the zoo."""
    small.model_folder(folder, config=config)
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(data if data == CODE else json.dumps((config if file == "config.json" else {}) | data))
    return folder


@pytest.mark.parametrize(("file", "data"), [(f, d) for _, f, d in ZOO], ids=[name for name, _, _ in ZOO])
def test_what_would_run_code_is_refused_and_the_flag_named(tmp_path: Path, file: str, data: Any) -> None:
    """Each booby trap is exit code 78 with the file and --trust-remote-code named; trusted, it passes."""
    folder = trapped(tmp_path / "m", file, data)
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


REPLACED: dict[str, dict[str, Any]] = {
    "falcon": {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "auto_map": {
            "AutoConfig": "configuration_falcon.FalconConfig",
            "AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM",
        },
    },
    "mpt": {
        "architectures": ["MPTForCausalLM"],
        "model_type": "mpt",
        "auto_map": {
            "AutoConfig": "configuration_mpt.MPTConfig",
            "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM",
        },
    },
}


def published(path: Path, config: dict[str, Any]) -> Path:
    """A folder as the hub has it: the code beside the weights."""
    folder = small.model_folder(path, config=config)
    for name in ("configuration_x.py", "modeling_x.py", "blocks.py"):
        (folder / name).write_text("raise SystemExit('ran')")
    return folder


@pytest.mark.parametrize("name", REPLACED)
def test_code_that_transformers_has_replaced_needs_no_trust(tmp_path: Path, name: str) -> None:
    """Falcon and MPT as they are published: their code lies there unused, so nothing has to be trusted."""
    safety.check_code(published(tmp_path / "m", REPLACED[name]), trust_remote_code=False)


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize(("file", "data"), [(f, d) for _, f, d in ZOO], ids=[name for name, _, _ in ZOO])
def test_nothing_else_of_them_passes(tmp_path: Path, name: str, file: str, data: Any) -> None:
    """Every other trick of the zoo is refused in such a folder too."""
    folder = published(tmp_path / "m", REPLACED[name])
    if data == ZOO[0][2]:
        data = {"auto_map": REPLACED[name]["auto_map"] | {"AutoModel": "a.b.C"}}
    trapped(folder, file, data, REPLACED[name])
    with pytest.raises(UnsafeConfiguration):
        safety.check_code(folder, trust_remote_code=False)


@pytest.mark.parametrize(
    "data",
    [
        {"model_type": "RefinedWebModel"},
        {"model_type": "llama"},
        {"model_type": None},
        {"architectures": ["EvilForCausalLM"]},
        {"architectures": "FalconForCausalLM"},
        {"architectures": [["FalconForCausalLM"]]},
        {"auto_map": ["modeling_falcon.FalconForCausalLM"]},
        {"auto_map": {"AutoModel": ["t.T", None]}},
    ],
)
def test_what_transformers_would_need_the_code_for_is_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    """Older types of the same models, and whatever only looks like one."""
    folder = published(tmp_path / "m", REPLACED["falcon"] | data)
    with pytest.raises(UnsafeConfiguration):
        safety.check_code(folder, trust_remote_code=False)


@pytest.mark.parametrize("name", ["lib.so", "x.pyc", "custom_generate"])
def test_other_code_beside_replaced_code_is_refused(tmp_path: Path, name: str) -> None:
    """Libraries, compiled files and generation of its own are nothing that transformers has replaced."""
    folder = published(tmp_path / "m", REPLACED["falcon"])
    (folder / name).mkdir() if name == "custom_generate" else (folder / name).write_text("")
    with pytest.raises(UnsafeConfiguration, match=name):
        safety.check_code(folder, trust_remote_code=False)
