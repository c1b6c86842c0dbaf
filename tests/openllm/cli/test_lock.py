"""`openllm lock`, and `--locked` as typed: what stands in the file, what it brings along, and each thing that may differ."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import Result
from tests.openllm.bundle import bentos
from tests.openllm.serialisation import fake_hub, small

from openllm import distributions, locking, serialisation
from openllm.cli.options import read_settings
from openllm.serialisation import fetch, importing
from openllm.serialisation.hub import HubId
from openllm.serialisation.importing import Trust
from openllm.serialisation.store import Store
from openllm_core.errors import InvalidSetting

Run = Callable[..., Result]
FILE = Path("openllm.lock.json")
VERSIONS = distributions.versions
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tiny model in it, where two packages are installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENLLM_BACKEND", "echo")
    packages = {name: metadata.version(name) for name in ("attrs", "openllm")}

    def versions(roots: object) -> dict[str, str]:  # all that are installed take their time
        return dict(packages)

    monkeypatch.setattr(distributions, "versions", versions)
    made = small.model_folder(Path("tiny"))
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def lock(run: Run, *words: str) -> dict[str, Any]:
    """Lock the tiny model; what the file says."""
    done = run("lock", "./tiny", *words)
    assert done.exit_code == 0, done.stderr
    return json.loads(FILE.read_text())


def check(run: Run, *words: str) -> tuple[int, list[str]]:
    """The exit code of a start, and each thing that differs."""
    done = run("start", "--locked", str(FILE), "--check", "-o", "json", *words)
    assert done.stdout, done.stderr
    data = json.loads(done.stdout)
    red = [f["text"] for f in data["findings"] if f["level"] == "red" and f["name"] == "lock"]
    return done.exit_code, red[:-1] if red else []


def test_what_stands_in_a_lock(run: Run, folder: Path) -> None:
    """Hashes of the files and the template, engine, Python and flags; the same each time."""
    found = lock(run, "--max-model-len", "64", "--temperature", "0.25")
    for name, digest in found["files"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert set(found["files"]) == {path.name for path in folder.iterdir()}
    assert found["chat_template"] == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert (found["model"], found["model_id"], found["engine"]) == ("./tiny", "tiny", "echo")
    assert found["python"] == platform.python_version()
    assert (found["flags"], found["generation"]) == ({"max_model_len": 64}, {"temperature": 0.25})
    before = FILE.read_bytes()
    assert lock(run, "--max-model-len", "64", "--temperature", "0.25") == found
    assert FILE.read_bytes() == before
    assert [path.name for path in Path().iterdir() if "lock" in path.name] == [FILE.name]


def test_every_package_that_takes_part_is_locked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, the framework, and what they need in turn, as they are installed."""
    monkeypatch.setattr(distributions, "versions", VERSIONS)
    found = lock(run, "--backend", "echo")["packages"]
    for name in ("openllm", "openllm-core", "torch", "transformers", "tokenizers", "starlette"):
        assert found[name] == metadata.version(name)


def test_a_lock_is_written_where_it_is_told(run: Run) -> None:
    """stdout is its path, or as JSON the whole of it."""
    assert run("lock", "./tiny", "x.json", "-o", "porcelain").stdout == "x.json\n"
    said = json.loads(run("lock", "./tiny", "x.json", "-o", "json").stdout)
    assert said["path"] == "x.json" and said["files"] == json.loads(Path("x.json").read_text())["files"]
    assert run("lock", "./tiny", "no/such/x.json").exit_code == 74
    assert run("lock").exit_code == 2  # the echo backend without a model


def test_no_secret_and_no_address_is_locked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys stay out of the file, and a locked server may listen anywhere."""
    monkeypatch.setenv("OPENLLM_API_KEY", "sk-hidden")
    found = lock(run, "--host", "127.0.0.2", "--port", "4321")
    assert found["flags"] == {} and "sk-hidden" not in FILE.read_text()
    monkeypatch.setenv("OPENLLM_API_KEY", "sk-other")
    assert check(run, "--port", "0") == (0, [])


def test_a_lock_brings_model_flags_and_fields(run: Run) -> None:
    """Nothing has to be typed again: model, engine, flags and generation defaults come out of the file."""
    lock(run, "--max-model-len", "64", "--temperature", "0.25", "--served-model-name", "a", "--strict")
    assert check(run) == (0, [])
    settings = read_settings(lock=locking.read(FILE))
    assert (settings.engine.backend, settings.engine.max_model_len) == ("echo", 64)
    assert (settings.server.served_model_name, settings.server.strict) == (("a",), True)
    assert settings.file_fields == {"temperature": 0.25}


def edit(key: str, value: object, *, within: str | None = None) -> None:
    """Change the lock as if another machine had written it; None takes a key away."""
    data: dict[str, Any] = json.loads(FILE.read_text())
    place, name = (data, key) if within is None else (data[within], key)
    if value is None:
        del place[name]
    else:
        place[name] = value
    FILE.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("within", "key", "value", "said"),
    [
        (None, "model_id", "other", "model id: tiny here, other in the lock"),
        (None, "revision", "a" * 40, f"revision: none here, {'a' * 40} in the lock"),
        (None, "chat_template", "", "chat template: "),
        (None, "python", "3.1.4", f"python: {platform.python_version()} here, 3.1.4 in the lock"),
        ("files", "config.json", None, "file config.json: not in the lock"),
        ("files", "x", "0" * 64, "file x: not here"),
        ("packages", "attrs", "1.0", f"package attrs: {metadata.version('attrs')} here, 1.0 in the lock"),
        ("packages", "gone", "2.0", "package gone: not installed here, 2.0 in the lock"),
        ("packages", "attrs", None, f"package attrs: {metadata.version('attrs')} here, not there in the lock"),
        ("adapters", "a", {"b": "0" * 64}, "adapter a, file b: not here"),
    ],
)
def test_what_differs_on_another_machine_is_named(
    run: Run, within: str | None, key: str, value: object, said: str
) -> None:
    """Each stands in a line of its own, with what mends it; the exit code is 78."""
    lock(run)
    edit(key, value, within=within)
    code, found = check(run)
    assert code == 78 and len(found) == 1 and found[0].startswith(said), found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", small.safetensors(5), ["file model.safetensors: SHA-256"]),
        ("config.json", json.dumps(small.CONFIG | {"vocab_size": 5}).encode(), ["file config.json: SHA-256"]),
        ("generation_config.json", b"{}", ["file generation_config.json: not in the lock"]),
        ("chat_template.jinja", b"x", ["chat template: ", "file chat_template.jinja: SHA-256"]),
        ("tokenizer_config.json", None, ["file tokenizer_config.json: not here"]),
        ("1_Pooling/config.json", b"{}", ["file 1_Pooling/config.json: SHA-256"]),
        ("README.md", b"for people", []),
    ],
)
def test_a_file_that_differs_is_named(
    run: Run, folder: Path, name: str, content: bytes | None, said: list[str]
) -> None:
    """Changed, added or gone, if a load would read it; what is for people alone does not count."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    lock(run)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    code, found = check(run)
    assert code == (78 if said else 0) and len(found) == len(said)
    assert all(text.startswith(begin) for text, begin in zip(found, said, strict=True)), found


@pytest.mark.parametrize(
    ("words", "variable", "said"),
    [
        (["--dtype", "float32"], {}, "--dtype: float32 here, not set in the lock"),
        (["--max-model-len", "32"], {}, "--max-model-len: 32 here, 64 in the lock"),
        ([], {"OPENLLM_MAX_QUEUE": "9"}, "--max-queue: 9 here, not set in the lock"),
        (["--temperature", "0.5"], {}, "--temperature: 0.5 here, 0.25 in the lock"),
        ([], {"OPENLLM_GENERATION_TOP_K": "3"}, "--top-k: 3 here, not set in the lock"),
    ],
)
def test_a_flag_that_differs_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], variable: dict[str, str], said: str
) -> None:
    """Typed or from the environment, also one that was at its default."""
    lock(run, "--max-model-len", "64", "--temperature", "0.25")
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    assert check(run, *words) == (78, [said])


def test_the_same_flag_typed_again_does_not_differ(run: Run) -> None:
    """Values count, not where they come from."""
    lock(run, "--max-model-len", "64")
    assert check(run, "--max-model-len", "64", "--dtype", "auto") == (0, [])


def test_another_engine_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the lock is taken; one typed against it differs."""
    lock(run)
    edit("engine", "vllm")
    assert check(run)[1] == ["engine: echo here, vllm in the lock"]
    monkeypatch.delenv("OPENLLM_BACKEND")
    lock(run, "--backend", "echo")
    assert check(run) == (0, [])


def test_trust_is_typed_again(run: Run) -> None:
    """A lock never gives leave to run a model's code: the flag has to be typed, as when it was written."""
    assert lock(run, "--trust-remote-code")["flags"] == {"trust_remote_code": True}
    code, found = check(run)
    assert code == 78 and found == ["--trust-remote-code: not typed here, true in the lock"]
    assert check(run, "--trust-remote-code") == (0, [])


def test_everything_that_differs_is_said_at_once(run: Run, folder: Path) -> None:
    """One run names them all, each with its remedy, then how many there are."""
    lock(run)
    (folder / "model.safetensors").write_bytes(small.safetensors(5))
    edit("gone", "2.0", within="packages")
    done = run("start", "--locked", str(FILE), "--dtype", "float32", "--check")
    assert done.exit_code == 78
    for part in ("model.safetensors", 'pip install "gone==2.0"', "--dtype: float32", "3 things differ"):
        assert part in done.stdout, done.stdout


def test_adapters_are_locked(run: Run) -> None:
    """The files of each adapter count as the model's do."""
    made = Path("lora")
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(small.safetensors())
    assert set(lock(run, "--adapter-id", "./lora:legal")["adapters"]) == {"./lora:legal"}
    assert check(run) == (0, [])
    (made / "adapter_model.safetensors").write_bytes(small.safetensors(5))
    assert check(run)[1][0].startswith("adapter ./lora:legal, file adapter_model.safetensors: SHA-256")


def test_a_sentence_encoder_is_locked(run: Run) -> None:
    """The files of --embedding-model count as the model's do, how it pools among them."""
    made = small.model_folder(Path("encoder"))
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    found = lock(run, "--embedding-model", "./encoder")
    digest = hashlib.sha256((made / "1_Pooling" / "config.json").read_bytes()).hexdigest()
    assert found["embedding_files"]["1_Pooling/config.json"] == digest
    assert check(run) == (0, [])
    (made / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (made / "model.safetensors").write_bytes(small.safetensors(5))
    code, texts = check(run)
    assert code == 78 and [text.partition(": SHA-256")[0] for text in texts] == [
        "embedding model, file 1_Pooling/config.json", "embedding model, file model.safetensors",
    ]  # fmt: skip


def test_the_default_sentence_encoder_is_locked(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it makes the embeddings, its files count; one that came after the lock was written is no difference."""
    made = small.model_folder(Path("encoder"))
    monkeypatch.setattr(fetch, "EMBEDDING_MODEL", attrs.evolve(fetch.EMBEDDING_MODEL, model_id="./encoder"))
    assert lock(run)["embedding_files"] == {}  # the model makes them itself
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": ""}]')
    made.rename("away")
    assert lock(run)["embedding_files"] == {}
    Path("away").rename(made)
    assert check(run) == (0, [])
    assert "model.safetensors" in lock(run)["embedding_files"]
    (made / "model.safetensors").write_bytes(small.safetensors(5))
    code, texts = check(run)
    assert (code, len(texts)) == (78, 1) and texts[0].startswith("embedding model, file model.safetensors: SHA-256")


def test_a_lock_of_a_bento_holds_on_another_machine(
    run: Run, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its adapters are known by their names: where the Bento lies is no part of the lock."""
    entry = serialisation.import_model(str(folder), options=small.options(tmp_path / "bentoml"))
    home = bentos.written(tmp_path / "bentoml", entry, adapters=(bentos.adapter("french"),))
    made = home / "src" / "adapters" / "french"
    made.mkdir(parents=True)
    (made / "adapter_config.json").write_text("{}")
    assert run("lock", "tiny-service:v1").exit_code == 0
    data = json.loads(FILE.read_text())
    assert [*data["adapters"]] == ["french"] and str(tmp_path) not in FILE.read_text()
    assert check(run, "tiny-service:v1") == (0, [])
    assert check(run) == (0, [])
    (tmp_path / "bentoml").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "elsewhere"))
    assert check(run) == (0, [])
    (tmp_path / "elsewhere/bentos/tiny-service/v1/src/adapters/french/adapter_config.json").write_text("{ }")
    assert check(run)[1][0].startswith("adapter french, file adapter_config.json: SHA-256")


def test_a_model_of_the_hub_is_locked_to_its_commit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the lock names is fetched again at that commit, wherever the branch is by then."""
    store = Store(small.options(tmp_path / "bentoml"))
    with fake_hub.running(tmp_path / "origin") as site:
        hub_id = HubId.parse("org/tiny")
        assert hub_id is not None
        importing.from_hub(store, hub_id, trust=Trust(), endpoint=site.url)
    assert run("lock", "org/tiny").exit_code == 0
    found = locking.read(FILE)
    assert (found.model, found.revision) == (f"org/tiny:{fake_hub.COMMIT}", fake_hub.COMMIT)
    assert check(run) == (0, [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pruned = run("prune", "--yes")
    assert pruned.exit_code == 0, pruned.stderr
    done = run("start", "--locked", str(FILE))
    assert done.exit_code == 66 and fake_hub.COMMIT in done.stderr


def test_a_recorded_quantisation_is_a_flag(run: Run) -> None:
    """A model that was imported quantised is locked so, and the same files served whole differ."""
    assert run("import", "./tiny", "--quantize", "int8").exit_code == 0
    assert run("lock", "tiny").exit_code == 0
    assert json.loads(FILE.read_text())["flags"] == {"quantize": "int8"}
    assert check(run) == (0, [])
    edit("flags", {})
    assert check(run)[1] == ["--quantize: int8 here, not set in the lock"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', "[" * 100_000, '{"format": 1, "flags": {"a": 1}}', "\ufffd", "null"],
)
def test_a_file_that_is_no_lock_is_refused(run: Run, text: str) -> None:
    """One line with the way to write one, exit code 78, no traceback."""
    FILE.write_text(text)
    done = run("start", "--locked", str(FILE))
    assert done.exit_code == 78 and "openllm lock" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["files", "embedding_files", "flags", "packages", "adapters", "model", "generation"])
@pytest.mark.parametrize("value", [None, 1, [1], {"a": 1}])
def test_a_lock_with_a_value_of_a_wrong_type_is_refused(key: str, value: object) -> None:
    """Whatever somebody wrote into it by hand, except a field of generation, which the model's family judges."""
    data = json.loads(locking.Lock(model="a", model_id="a", engine="echo").to_json())
    FILE.write_text(json.dumps(data))
    assert locking.read(FILE).model == "a"
    FILE.write_text(json.dumps(data | {key: value}))
    if (key, value) == ("generation", {"a": 1}):
        assert locking.read(FILE).generation == value
    else:
        with pytest.raises(InvalidSetting, match="no lock file"):
            locking.read(FILE)
