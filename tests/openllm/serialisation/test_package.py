from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import archive, get, importing, list_models, verify
from openllm.serialisation.manifest import Manifest
from openllm.serialisation.store import Store
from openllm_core.errors import CorruptModel, ModelNotFound

HEAVY = ("bentoml", "torch", "transformers", "huggingface_hub", "numpy", "gguf", "safetensors")


def run(code: str, *arguments: str, **environment: str) -> str:
    """stdout of a fresh Python."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def publish(home: Path) -> Store:
    store = Store(small.options(home))
    with store.staging() as folder:
        small.model_folder(folder)
        description = Manifest(
            tag="pt-org--tiny:v1",
            model_id="org/Tiny ü: {x}",
            origin="hub",
            family="llama",
            architecture="LlamaForCausalLM",
            tools={"python": "3.11.0", "transformers": "5.16.0"},
        )
        store.publish(folder, description)
    return store


def test_serving_from_the_store_imports_nothing_heavy(tmp_path: Path) -> None:
    """The package, a listing and a whole resolve of a stored model load neither bentoml nor torch nor their like."""
    publish(tmp_path)
    code = (
        "import sys; from openllm.serialisation import resolve, list_models, ResolvedModel, ensure_tokenizer\n"
        "from openllm_core.options import StoreOptions\n"
        "o = StoreOptions(home=sys.argv[1]); assert list_models(o); ensure_tokenizer(resolve('tiny', options=o).path)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    ).replace("'tiny'", "'org--tiny'")
    assert run(code, str(tmp_path)).strip() == "[]"


def test_importing_the_package_loads_none_of_its_parts() -> None:
    """`import openllm.serialisation` alone reads only its own file; unknown names are AttributeErrors."""
    code = (
        "import sys, openllm.serialisation as s\n"
        "print([m for m in sys.modules if m.startswith('openllm.serialisation.')])\n"
        "try: s.nothing\nexcept AttributeError as error: print(error)"
    )
    assert run(code) == "[]\nmodule 'openllm.serialisation' has no attribute 'nothing'\n"


def test_bentoml_reads_our_models(tmp_path: Path) -> None:
    """bentoml.models.get, by tag and as latest, and its list, give tag, labels, metadata and time of what we stored."""
    store = publish(tmp_path)
    with store.staging():  # a staging folder of a running import must not disturb BentoML
        code = (
            "import json, bentoml\n"
            "m = bentoml.models.get('pt-org--tiny:v1'); assert bentoml.models.get('pt-org--tiny:latest') == m\n"
            "assert [str(x.tag) for x in bentoml.models.list()] == ['pt-org--tiny:v1']\n"
            "print(json.dumps([str(m.tag), dict(m.info.labels), dict(m.info.metadata), m.info.creation_time.isoformat(), m.path]))"
        )
        out = run(code, BENTOML_HOME=str(tmp_path), BENTOML_DO_NOT_TRACK="True", HOME=str(tmp_path))
    tag, labels, metadata, created, path = json.loads(out.splitlines()[-1])
    entry = store.entries()[0]
    assert (tag, created, path) == (entry.tag, entry.created.isoformat(), str(entry.path))
    assert labels["framework"] == "openllm" and labels["model_name"] == "llama"
    assert metadata["model_id"] == "org/Tiny ü: {x}"


def test_list_get_and_verify(tmp_path: Path) -> None:
    """The three calls that the command line makes; a flipped bit under an unchanged time is found by verify alone."""
    store = publish(tmp_path)
    (entry,) = list_models(store.options)
    assert get("org--tiny", store.options) == entry
    assert verify("org--tiny", store.options) == entry.path
    with pytest.raises(ModelNotFound):
        get("other", store.options)
    file = entry.path / "model.safetensors"
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    store.check(entry)
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        verify("org--tiny", store.options)


def bentoml(code: str, home: Path) -> None:
    run(code, BENTOML_HOME=str(home), HOME=str(home), BENTOML_DO_NOT_TRACK="True")


def test_bentoml_reads_our_archives_and_we_read_bentomls(tmp_path: Path) -> None:
    """`bentoml.models.import_model` takes our archive; what `bentoml.models.export_model` writes, gz or xz, we take."""
    store, other = publish(tmp_path / "home"), Store(small.options(tmp_path / "other"))
    (entry,) = store.entries()
    ours = archive.export(entry, tmp_path)
    third = tmp_path / "third"
    bentoml(
        "import bentoml\n"
        f"m = bentoml.models.import_model({str(ours)!r}); assert str(m.tag) == {entry.tag!r}\n"
        f"assert open(m.path_of('model.safetensors'), 'rb').read() == open({str(entry.path / 'model.safetensors')!r}, 'rb').read()",
        third,
    )
    assert [e.tag for e in Store(small.options(third)).entries()] == [entry.tag]
    for name, form in (("x.tar.gz", "gz"), ("y.bentomodel", "bentomodel")):
        theirs = tmp_path / name
        bentoml(
            f"import bentoml; bentoml.models.export_model({entry.tag!r}, {str(theirs)!r}, output_format={form!r})",
            store.home,
        )
        assert archive.import_archive(other, theirs, trust=importing.Trust()).tag == entry.tag
