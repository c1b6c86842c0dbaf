"""The page for those who come from 0.3.5: no name of 0.3.5 is lost that it does not list, and its tables are true.

Names are those of the released wheels, which were read and run to learn them.
"""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.server.serving import serving

from openllm.backends import registry
from openllm.cli import COMMANDS, former
from openllm_core.config import variables
from openllm_core.errors import UnknownBackend
from openllm_core.options import EngineOptions, ServerOptions
from openllm_core.settings import flag_of, settings_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migrating-from-0.3.5.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")

NAMES = {
    "openllm": """
        AutoConfig AutoFlaxLLM AutoLLM AutoTFLLM AutoVLLM BaichuanConfig COMPILED CONFIG_MAPPING
        CONFIG_MAPPING_NAMES CascadingResourceStrategy ChatGLMConfig DollyV2Config EmbeddingsOutput FalconConfig FlanT5Config
        GPTNeoXConfig GenerationConfig GenerationInput GenerationOutput GenericEmbeddingRunnable HfAgentInput LLM LLMConfig
        LLMEmbeddings LLMRunnable LLMRunner LlamaConfig LogitsProcessorList MODEL_MAPPING MODEL_MAPPING_NAMES MPTConfig
        MetadataOutput OPT OPTConfig Runner SamplingParams StableLMConfig StarCoderConfig StopOnTokens StopSequenceCriteria
        StoppingCriteriaList __version__ __version_info__ build bundle client exceptions get_resource import_model
        infer_auto_class infer_quantisation_config list_models models playground prepare_logits_processor serialisation start
        start_grpc testing utils
    """,
    "openllm_core": """
        AmdGpuResource AutoConfig CONFIG_MAPPING CONFIG_MAPPING_NAMES CascadingResourceStrategy EmbeddingsOutput
        GenerationConfig GenerationInput GenerationOutput HfAgentInput LLMConfig LiteralResourceSpec MetadataOutput
        NvidiaGpuResource START_OPT_COMMAND_DOCSTRING SamplingParams available_resource_spec config exceptions get_resource
        unmarshal_vllm_outputs utils
    """,
    "openllm_core.exceptions": """
        Error FineTuneStrategyNotSupportedError ForbiddenAttributeError GpuNotAvailableError MissingAnnotationAttributeError
        MissingDependencyError OpenLLMException ValidationError
    """,
    "openllm_client": "AsyncGrpcClient AsyncHTTPClient BaseAsyncClient BaseClient GrpcClient HTTPClient benmin",
}
EXTRAS = "agents all baichuan chatglm falcon fine-tune flan-t5 full ggml gptq grpc llama mpt openai opt playground starcoder vllm"
VARIABLES = """
    BENTOML_HOME BENTO_PATH CONVERTER CUDA_VISIBLE_DEVICES FORCE_TF_AVAILABLE OPENLLMDEVDEBUG OPENLLM_ADAPTER_MAP OPENLLM_BACKEND
    OPENLLM_CONFIG OPENLLM_CORS OPENLLM_DEV_BUILD OPENLLM_MODEL OPENLLM_MODEL_ID OPENLLM_QUANTIZE OPENLLM_SERIALIZATION
    OPENLLM_SERIALIZATION_WARNING OPENLLM_USE_LOCAL_LATEST TRUST_REMOTE_CODE USE_FLAX USE_TF
"""
FLAGS = {
    "start": """
        --adapter-id --api-workers --backend --backlog --cors --development --device --env --host --model-id --model-version
        --port --quantise --quantize --reload --return-process --serialisation --serialization --server-timeout --ssl-ca-certs
        --ssl-cert-reqs --ssl-certfile --ssl-ciphers --ssl-keyfile --ssl-keyfile-password --ssl-version --timeout
        --workers-per-resource
    """,
    "start-grpc": "--enable-channelz --enable-reflection --max-concurrent-streams --port --ssl-certfile",
    "import": "--backend --model-version --output --quantise --quantize --serialisation",
    "build": """
        --adapter-id --backend --bento-version --build-ctx --container-registry --container-version-strategy --containerize
        --dockerfile-template --enable-features --force-push --model-id --model-version --output --overwrite --push --quantize
        --serialisation --workers-per-resource
    """,
    "models": "--output --show-available",
    "prune": "--assume-yes --include-bentos --no-include-bentos --yes",
    "query": "--endpoint --output --sampling-params --server-type --timeout",
    "embed": "--endpoint --output --server-type --timeout",
    "instruct": "--agent --endpoint --opt --output --remote --timeout",
    "get-prompt": "--format --opt --output",
    "build-base-container": "--container-registry --push --version-strategy",
    "playground": "--port",
}
ROUTES = """
    /healthz /livez /readyz /metrics / /docs.json /v1/generate /v1/generate_stream /v1/metadata /v1/embeddings /v1/adapters /hf/agent
"""
# What the second table says, and the test that holds it.
BEHAVIOURS = {
    "`POST /v1/generate_stream`": "openllm/server/test_routes.py::test_generate_stream_as_plain_text",
    "a bad request": "contract/test_published_client.py::test_what_it_gets_wrong_is_said",
    "`--temperature` and its like, typed at `start`": "openllm/cli/test_generation.py::test_a_typed_field_reaches_the_server",
    "`stop`, `best_of`, `logprobs`, `min_new_tokens` in a request": "core/fields/test_table.py::test_each_cell",
    "`completion_tokens`": "openllm/engine/test_engine.py::test_echoes_with_reasons_and_usage",
    "a variable and a flag that differ": "openllm/cli/test_generation.py::test_typed_beats_environment_beats_file_beats_family",
    "`POST /v1/embeddings` with an array": "openllm/server/test_embeddings.py::test_the_body_decides_the_shape",
    "`GET /`": "docs/test_migrating.py::test_routes_are_there",
    "bodies of `/livez`, `/readyz`, `/healthz`": "contract/test_every_route.py::test_route",
    "names in `/metrics`": "openllm/server/test_metrics.py::test_the_page_and_the_dashboard_are_what_a_server_shows",
    "the id of a request": "openllm/test_access.py::test_request_ids",
    "`GET /v1/adapters`": "openllm/server/test_adapters.py::test_the_default_is_switched",
    "an adapter of one request": "openllm/server/test_adapters.py::test_each_request_chooses",
    "relative `--model-id`": "openllm/serialisation/test_lookup.py::test_a_text_with_a_separator_is_a_folder",
    "`id:revision`": "openllm/serialisation/test_store.py::test_ids_are_found_by_revision_commit_and_its_beginning",
    "`openllm query -o json`": "openllm/cli/test_query.py::test_json_is_pure_json",
    "exit codes": "core/test_errors.py::test_every_class_has_a_code_and_an_exit_code",
    "readiness": "openllm/engine/test_process.py::test_ready_needs_a_real_token",
    "`AsyncHTTPClient`": "client/test_parity.py::test_names_are_the_same",
    "unknown keyword arguments of a config": "core/config/test_llm.py::test_unknown_names_are_extras",
    "`openllm prune`": "openllm/cli/test_bento.py::test_prune_keeps_what_a_bento_serves",
    "`client.ask_agent`": "client/test_agents.py::test_a_tool_is_called_here_and_the_answer_comes_back",
}


def table(heading: str, after: str = "") -> list[list[str]]:
    """Rows of the first table below a heading of the page; of the first one behind some text there."""
    section = re.split(r"^## ", PAGE, flags=re.M)
    (text,) = [part.partition(after)[2] if after else part for part in section if part.startswith(heading + "\n")]
    lines = re.findall(r"(?:^\|.*\n)+", text, re.M)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def exists(path: str) -> bool:
    """Whether a dotted name can be imported."""
    module, _, name = path.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            found = import_module(module)
            if hasattr(found, name):
                return True
            import_module(path)
        except ImportError:
            return False
    return True


def named(cells: list[str]) -> set[str]:
    return {name for cell in cells for name in re.findall(r"`(openllm\w*(?:\.\w+)+)`", cell)}


def test_names_are_there_or_listed():
    """Exactly those that cannot be imported any more stand in the table, and what stands beside them can be."""
    rows = table("Names in Python")
    every = {f"{module}.{name}" for module, names in NAMES.items() for name in names.split()}
    assert named([row[0] for row in rows]) == {name for name in every if not exists(name)}
    assert [name for name in named([row[1] for row in rows]) if not exists(name)] == []


def test_extras_are_there_or_listed():
    """An extra of 0.3.5 is one now, or the table says what became of it."""
    project = tomllib.loads((ROOT / "openllm-python" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = set(re.findall(r"`([\w-]+)`", " ".join(row[0] for row in table("Backends and extras"))))
    assert set(EXTRAS.split()) - set(project["optional-dependencies"]) == listed - {"gptq"}
    assert "gptqmodel" in " ".join(project["optional-dependencies"]["gptq"])
    for name in ("tf", "flax"):
        with pytest.raises(UnknownBackend):
            registry.get(name)


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_taken(command: str):
    """Every flag of 0.3.5 is one of the command."""
    options = import_module(COMMANDS[command][0]).command.params
    taken = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    assert {flag for flag in FLAGS[command].split() if flag not in taken} == set()


async def test_routes_are_there():
    """Every path of 0.3.5 answers, and so does the page that describes them."""
    async with serving() as served:
        answers = {path: (await served.http.get(path)).status_code for path in (*ROUTES.split(), "/docs", "/chat")}
    assert {path: status for path, status in answers.items() if status == 404 or status >= 500} == {}


def test_flags_without_effect_are_listed():
    """With the reason that the command itself gives."""
    assert {row[0].strip("`"): row[1] for row in table("Flags")} == {
        flag: why for flag, (_, why) in former.FLAGS.items()
    }


def test_variables_are_read_or_listed():
    """A variable of 0.3.5 is that of a setting, or the page says that it is not, with the reason that a start gives."""
    listed = {row[0].strip("`"): row[1] for row in table("Variables")}
    assert listed == variables.GONE
    silent = {"OPENLLM_MODEL", "OPENLLM_ADAPTER_MAP"}
    assert all(f"`{name}`" in PAGE for name in silent)
    read = variables.known() | {"CUDA_VISIBLE_DEVICES"}
    assert set(VARIABLES.split()) - read == set(listed) | silent


def test_defaults_are_those_of_the_settings():
    """What the table calls the default is it."""
    settings: dict[str, Any] = {}
    for cls in (EngineOptions, ServerOptions):
        for name, (_, fact) in settings_of(cls).items():
            settings[flag_of(name, fact)] = getattr(cls(), name)
    for flag, _, now in table("Defaults"):
        shown = re.findall(r"`([^`]+)`", now)[0]
        default = settings[flag.strip("`")]
        assert shown == (
            "off" if default is False else f"{default:g}" if isinstance(default, float) else str(default)
        ), flag


def test_behaviours_are_held_by_tests():
    """Each row names what a test of this suite holds."""
    assert {row[0] for row in table("What behaves differently")} == set(BEHAVIOURS)
    for node in BEHAVIOURS.values():
        file, _, name = node.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        functions = {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, node
