"""`openllm prune`, `list-models`, `models verify`, `export` and the flags of `import`, as typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.openllm.bundle import bentos
from tests.openllm.serialisation import small

from openllm.serialisation import resolve
from openllm_core.errors import ModelNotFound

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and the working directory beside it."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bentoml"


def add(run: Run, name: str, *words: str, **config: Any) -> dict[str, Any]:
    """Import a tiny folder of that name; what the command says of it."""
    folder = small.model_folder(Path(name), config=small.CONFIG | config)
    done = run("import", f"./{folder}", "-o", "json", *words)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def tags(run: Run) -> list[str]:
    return run("list-models", "-o", "porcelain").stdout.split()


def test_list_models_by_family(run: Run, home: Path) -> None:
    """JSON by family with tag and size, a table for people, one family alone, and a wrong name is exit 66."""
    tiny = add(run, "tiny-llama")
    other = add(run, "strange", architectures=["StrangeForCausalLM"])
    data = json.loads(run("list_models", "-o", "json").stdout)
    assert [e["tag"] for e in data["llama"]] == [tiny["tag"]]
    assert data["llama"][0]["size_bytes"] == tiny["size_bytes"] and data["llama"][0]["path"] == tiny["path"]
    assert [e["tag"] for e in data["other"]] == [other["tag"]]
    assert list(json.loads(run("list-models", "llama", "-o", "json").stdout)) == ["llama"]
    assert json.loads(run("list-models", "opt", "-o", "json").stdout) == {"opt": []}
    lines = run("list-models").stdout.splitlines()
    assert lines[0].split() == ["LLM", "Tag", "Size"] and len(lines) == 4
    assert run("list-models", "lama").exit_code == 66


def test_models_json_has_size_and_path(run: Run, home: Path) -> None:
    """Each family's entry lists its stored models; all of them, those of no family too, stand in `store`."""
    tiny = add(run, "tiny-llama")
    strange = add(run, "strange", architectures=["StrangeForCausalLM"])
    data = json.loads(run("models", "-o", "json").stdout)
    assert data["llama"]["stored"] == [{key: tiny[key] for key in ("tag", "size_bytes", "path")}]
    assert data["opt"]["stored"] == []
    assert {e["tag"]: e["size_bytes"] for e in data["store"]} == {m["tag"]: m["size_bytes"] for m in (tiny, strange)}
    assert json.loads(run("models", "-o", "json", "--show-available").stdout)["store"] == data["store"]
    assert list(json.loads(run("models", "llama", "-o", "json").stdout)) == ["llama"]


def test_prune_asks_and_deletes(run: Run, home: Path) -> None:
    """Each model is asked for by tag and size; no keeps it, yes deletes it and says so."""
    first, second = add(run, "a")["tag"], add(run, "b")["tag"]
    done = run("prune", stdin="y\nn\n")
    assert f"delete model {first}" in done.stderr
    assert done.stdout == f"{first} deleted from model store.\n"
    assert tags(run) == [second]
    assert json.loads(run("prune", "-y", "-o", "json").stdout)[0]["tag"] == second
    assert tags(run) == [] and list((home / "models").iterdir()) == []
    assert run("prune", "-y").exit_code == 0


@pytest.mark.parametrize("name", ["a", "pt-a", "PT_A", "tag"])
def test_prune_by_name(run: Run, home: Path, name: str) -> None:
    """A tag, its name with or without backend, or the id choose one model; rm is another word for it."""
    tag, other = add(run, "a")["tag"], add(run, "b")["tag"]
    assert run("rm", tag if name == "tag" else name, "-y").exit_code == 0
    assert tags(run) == [other]


@pytest.mark.parametrize("name", ["flan-t5", "flan_t5"])
def test_prune_by_family_with_a_dash(run: Run, home: Path, name: str) -> None:
    """Families whose name has a dash are found in both spellings; another family's models stay."""
    add(run, "mine", architectures=["T5ForConditionalGeneration"])
    other = add(run, "tiny")["tag"]
    assert run("prune", name, "-y").exit_code == 0
    assert tags(run) == [other]


def test_prune_refuses_an_unknown_name(run: Run, home: Path) -> None:
    """Nothing is deleted and exit code 66 says why; a family without models is nothing to delete."""
    tag = add(run, "a")["tag"]
    done = run("prune", "nothing", "-y")
    assert (done.exit_code, done.stdout) == (66, "") and "nothing" in done.stderr
    assert run("prune", "opt", "-y").exit_code == 0
    assert tags(run) == [tag]


def bento(home: Path, name: str, labels: dict[str, str]) -> Path:
    folder = home / "bentos" / name / "v1"
    folder.mkdir(parents=True)
    (folder / "bento.yaml").write_text(json.dumps({"service": "x:svc", "labels": labels}))
    (folder.parent / "latest").write_text("v1")
    return folder


def test_prune_takes_bentos_only_when_asked(run: Run, home: Path) -> None:
    """--include-bentos deletes ours, dashed families too, and nobody else's."""
    mine = bento(home, "flan-t5-service", {"start_name": "flan-t5", "bundler": "openllm.bundle"})
    old = bento(home, "old-service", {"_type": "llama", "_framework": "pt", "start_name": "llama"})
    other = bento(home, "other", {"owner": "me"})
    run("prune", "-y")
    assert mine.exists() and old.exists()
    done = run("prune", "flan_t5", "-y", "--include-bentos")
    assert done.stdout == "flan-t5-service:v1 deleted from bento store.\n"
    assert not mine.parent.exists() and old.exists()
    run("prune", "-y", "--include-bentos")
    assert not old.exists() and other.exists()


@pytest.mark.parametrize("name", ["tag", "encoder"])
def test_prune_of_a_sentence_encoder_takes_the_bentos_that_carry_it(run: Run, home: Path, name: str) -> None:
    """By its tag, as the refusal's hint says, and by its id: the Bento goes with it, the Bento's other model stays."""
    served, encoder = add(run, "tiny")["tag"], add(run, "encoder")["tag"]
    store = bentos.store_of(home)
    bentos.written(home, store.get(served), settings={"embedding_model": encoder})
    refused = run("prune", encoder, "-y")
    assert refused.exit_code == 74 and f"openllm prune {encoder} --include-bentos" in refused.stderr
    done = run("prune", encoder if name == "tag" else name, "-y", "--include-bentos", "-o", "porcelain")
    assert (done.exit_code, done.stdout.split()) == (0, ["tiny-service:v1", encoder]), done.stderr
    assert tags(run) == [served]


def test_prune_takes_a_build_context_whose_bento_is_gone(run: Run, home: Path) -> None:
    """It is no model: `models verify` passes over it."""
    bento(home, "tiny-service", {"start_name": "llama", "bundler": "openllm.bundle"})
    (home / "bentos").rename(home / "containers")
    done = run("models", "verify")
    assert (done.exit_code, done.stdout) == (0, "")
    assert run("prune", "-y").stdout == "tiny-service:v1 deleted from context store.\n"
    assert not (home / "containers" / "tiny-service" / "v1").exists()


def test_prune_clears_what_earlier_releases_stored_and_leaves_other_programs_alone(run: Run, home: Path) -> None:
    """Entries without our manifest go by their label; those of other frameworks stay."""
    old, foreign = home / "models" / "pt-old" / "v1", home / "models" / "sklearn-x" / "v1"
    for folder, framework in ((old, "openllm"), (foreign, "sklearn")):
        folder.mkdir(parents=True)
        labels = f"labels:\n  framework: {framework}\n  model_name: opt\n"
        (folder / "model.yaml").write_text(f"name: x\nversion: v1\napi_version: v1\n{labels}")
    broken = Path(add(run, "broken")["path"])
    (broken / "model.safetensors").unlink()
    assert tags(run) == []
    done = run("prune", stdin="n\nn\n")
    assert "earlier release" in done.stderr and "incomplete" in done.stderr
    run("prune", "-y")
    assert not old.exists() and not broken.exists() and foreign.exists()


@pytest.mark.parametrize("words", [["start", "pt-old:v1"], ["export", "old"], ["import", "pt-old"]])
def test_an_entry_of_an_earlier_release_says_prune(run: Run, home: Path, words: list[str]) -> None:
    """Using it is one line that names it and the command that clears it."""
    folder = home / "models" / "pt-old" / "v1"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("name: pt-old\nversion: v1\napi_version: v1\nlabels: {framework: openllm}\n")
    done = run(*words)
    assert done.exit_code == 74, done.stderr
    assert "pt-old:v1" in done.stderr and "openllm prune -y --include-bentos" in done.stderr


def test_verify_finds_a_flipped_bit(run: Run, home: Path) -> None:
    """All models or one; what differs is named and the exit code is 65, in each output."""
    good, bad = add(run, "good"), add(run, "bad")
    assert run("models", "verify").exit_code == 0
    file = Path(bad["path"]) / "model.safetensors"
    facts, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    done = run("models", "verify")
    assert done.exit_code == 65 and "model.safetensors" in done.stdout and f"{good['tag']}: whole." in done.stdout
    rows = {row["tag"]: row for row in json.loads(run("models", "verify", "-o", "json").stdout)}
    assert rows[good["tag"]]["whole"] and not rows[bad["tag"]]["whole"]
    assert run("models", "verify", "good").exit_code == 0
    assert run("models", "verify", bad["tag"], "-o", "porcelain").stdout == f"{bad['tag']} damaged\n"
    assert run("models", "verify", "nothing").exit_code == 66
    file.unlink()
    assert "incomplete" in run("models", "verify").stdout


def test_import_checks_what_is_there(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the store that changed since is exit 65 at the next import of the folder, plain or quantised; --fast looks
    at nothing, and yet makes no quantised entry of damage."""
    made = add(run, "tiny")
    file = Path(made["path"]) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for words in ([], ["--quantize", "int8"], ["--quantize", "int8", "--fast"]):
        done = run("import", "./tiny", *words)
        assert done.exit_code == 65 and "model.safetensors" in done.stderr and "openllm prune" in done.stderr
    assert run("import", "./tiny", "--fast", "-o", "porcelain").stdout.split() == tags(run) == [made["tag"]]


def test_a_converter_is_accepted_and_said_to_be_needless(run: Run, home: Path) -> None:
    """The third word that 0.3.5 took breaks no script."""
    folder = small.model_folder(Path("tiny"))
    done = run("import", "llama", f"./{folder}", "hf-llama", "-o", "porcelain")
    assert done.exit_code == 0 and "hf-llama is ignored" in done.stderr
    assert done.stdout.split() == tags(run)


def test_export_then_import_elsewhere(run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive lands in the working directory by its tag's name; another store gets the same model of it."""
    made = add(run, "tiny")
    done = json.loads(run("export", "tiny", "-o", "json").stdout)
    assert Path(done["path"]) == tmp_path / f"{made['tag'].replace(':', '-')}.tar.gz"
    assert str(tmp_path) not in run("export", "tiny", "x.tar.gz", "-o", "porcelain").stderr
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "elsewhere"))
    again = json.loads(run("import", "x.tar.gz", "-o", "json").stdout)
    assert (again["tag"], again["size_bytes"], again["previously_setup"]) == (made["tag"], made["size_bytes"], False)
    assert run("models", "verify").exit_code == 0
    assert json.loads(run("import", "x.tar.gz", "-o", "json").stdout)["previously_setup"]


def test_version_backend_and_quantisation_go_into_the_tag(run: Run, home: Path) -> None:
    """--model-version names the version, --backend the prefix, --quantise is remembered; no byte is stored twice."""
    made = add(run, "tiny", "--model-version", "Prod_1", "--backend", "vllm")
    assert (made["tag"], made["backend"], made["quantize"]) == ("vllm-tiny:prod-1", "vllm", None)
    small_one = json.loads(run("import", "./tiny", "--quantise", "int8", "-o", "json").stdout)
    assert (small_one["tag"], small_one["quantize"]) == ("vllm-tiny:prod-1-int8", "int8")
    weights = [Path(m["path"]) / "model.safetensors" for m in (made, small_one)]
    assert os.path.samefile(*weights)
    assert json.loads(run("import", "tiny", "-o", "json").stdout)["tag"] in (made["tag"], small_one["tag"])
    assert run("models", "verify").exit_code == 0
    assert run("prune", made["tag"], "-y").exit_code == 0
    assert run("models", "verify").exit_code == 0 and weights[1].exists()
    wrong = run("import", "./tiny", "--backend", "flax")
    assert wrong.exit_code == 78 and "flax" in wrong.stderr


def test_a_version_that_is_taken_is_refused(run: Run, home: Path) -> None:
    """Other files under the same explicit version: nothing is overwritten, and the way out is named."""
    tag = add(run, "tiny", "--model-version", "v1")["tag"]
    Path("tiny/config.json").write_text(json.dumps(small.CONFIG | {"vocab_size": 5}))
    done = run("import", "./tiny", "--model-version", "v1")
    assert done.exit_code == 74 and f"openllm prune {tag}" in done.stderr


def test_legacy_counts_only_when_typed(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENLLM_SERIALIZATION=legacy is refused with 78, and safetensors is the default everywhere."""
    add(run, "tiny", "--serialization", "safetensors")
    monkeypatch.setenv("OPENLLM_SERIALIZATION", "legacy")
    done = run("import", "./tiny")
    assert done.exit_code == 78 and "--serialisation" in done.stderr


@pytest.mark.parametrize("words", [["--fast"], []])
def test_fast_takes_only_what_is_there(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """--fast, or OPENLLM_USE_LOCAL_LATEST, never fetches: a model that is not stored is exit 66."""
    if not words:
        monkeypatch.setenv("OPENLLM_USE_LOCAL_LATEST", "True")
    for model in ([], ["org/absent"], ["opt"]):
        done = run("import", *model, *words)
        assert done.exit_code == 66 and "--fast" in done.stderr


@pytest.mark.parametrize("fast", ["--fast", "OPENLLM_USE_LOCAL_LATEST"])
def test_fast_takes_the_newest_of_a_folder_and_copies_nothing(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, fast: str
) -> None:
    """A folder, GGUF file or archive that was never imported is exit 66; else the newest entry of the folder, whatever
    became of it since, and of its name where the folder is another."""
    words = [fast] if fast == "--fast" else []
    small.model_folder(Path("tiny"))
    Path("m.gguf").write_bytes(b"GGUF")
    Path("a.tar.gz").write_bytes(b"")

    def refused(*names: str) -> None:
        for name in names:
            done = run("import", name, *words)
            assert done.exit_code == 66 and "--fast" in done.stderr and Path(name).name in done.stderr
        assert tags(run) == []

    with monkeypatch.context() as patch:
        if not words:
            patch.setenv(fast, "True")
        refused("./tiny", "./m.gguf", "./a.tar.gz")
        with pytest.raises(ModelNotFound):
            resolve("./m.gguf", options=small.options(home, fast=True))
    add(run, "tiny")
    newest = add(run, "tiny", vocab_size=5)["tag"]
    assert run("import", "./tiny", "--quantize", "int8").exit_code == 0
    small.model_folder(Path("tiny"), config=small.CONFIG | {"vocab_size": 6})
    small.model_folder(Path("elsewhere/tiny"))
    if not words:
        monkeypatch.setenv(fast, "True")
    before = tags(run)
    for folder in ("./tiny", "./elsewhere/tiny"):
        assert run("import", folder, "-o", "porcelain", *words).stdout.split() == [newest]
    assert tags(run) == before


@pytest.mark.parametrize("word", ["import", "download", "pull", "download-models", "download_models"])
def test_other_names_of_import(run: Run, home: Path, word: str) -> None:
    """Names that earlier releases and other tools gave the command all import."""
    small.model_folder(Path("tiny"))
    assert run(word, "./tiny", "-o", "porcelain").stdout.split() == tags(run) != []


@pytest.mark.parametrize("backend", ["pt", "vllm", "ggml", "echo", "auto"])
@pytest.mark.parametrize("serialisation", ["safetensors", "legacy"])
def test_serialisation_does_not_depend_on_the_backend(run: Run, home: Path, backend: str, serialisation: str) -> None:
    """Every backend takes both words, and what is stored is safetensors each time."""
    made = add(run, "tiny", "--backend", backend, "--serialisation", serialisation)
    assert made["serialisation"] == "safetensors"
    assert [p.name for p in Path(made["path"]).glob("*.safetensors")] == ["model.safetensors"]
