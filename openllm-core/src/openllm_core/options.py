"""Every knob of the program: EngineOptions, ServerOptions (its limits in `limits.py`), StoreOptions. One
`setting(...)` line each.

The command line, `openllm env`, the configuration file and the reference page are all made from these declarations.
EngineOptions travels to the engine host as plain data (`as_data` / `from_data`).
"""

import functools
from importlib import import_module
from typing import TYPE_CHECKING, Any

import attrs

from .errors import InvalidSetting
from .limits import Limits
from .settings import setting

if TYPE_CHECKING:
    from cattrs import Converter

ENGINE = "Engine"
SERVER = "Server"
ACCESS = "Access"
ADAPTERS = "Adapters"
OBSERVING = "Observing"


@attrs.frozen(kw_only=True)
class EngineOptions:
    """How one engine runs one model. Everything here reaches the engine host."""

    model_path: str = setting("", "Folder of the model, resolved before the host starts.", flag="")
    model_id: str = setting("", "Id or folder as the user gave it; for messages.", flag="")
    family: str = setting("", "Family name the model resolved to.", flag="")
    sharing_engines: int = setting(1, "Engines that share this one's device; set where engines are placed.", flag="")
    engine_index: int = setting(0, "Which of them it is, from 0.", flag="")
    memory_bytes: int | None = setting(None, "Its part of the device's free memory; None is all of it.", flag="")
    backend: str = setting(
        "auto", "pt, vllm, echo, or auto: the fastest one installed.", env="OPENLLM_BACKEND", group=ENGINE
    )
    device: str = setting(
        "auto",
        "auto, cpu, all, or GPUs as in CUDA_VISIBLE_DEVICES: numbers or ids, comma separated; repeatable.",
        env="OPENLLM_DEVICE",
        joined=True,
        group=ENGINE,
    )
    dtype: str = setting(
        "auto",
        "Computation type; auto takes the checkpoint's where the device computes in it, by measurement on CPU.",
        env="OPENLLM_DTYPE",
        choices=("auto", "float32", "bfloat16", "float16"),
        group=ENGINE,
    )
    max_model_len: int | None = setting(
        None, "Context length in tokens; default: the model's.", env="OPENLLM_MAX_MODEL_LEN", ge=8, group=ENGINE
    )
    max_num_seqs: int | None = setting(
        None,
        "Sequences run at once; default 64 on pt, 256 on vllm.",
        env="OPENLLM_MAX_NUM_SEQS",
        ge=1,
        le=4096,
        group=ENGINE,
    )
    attention: str = setting(
        "auto",
        "Attention of the decode step; auto measures at first start and remembers.",
        env="OPENLLM_ATTENTION",
        choices=("auto", "grouped", "sdpa", "eager"),
        group=ENGINE,
    )
    compile: str = setting(
        "auto",
        "Compile the decode step; auto: pt measures at first start whether compiled feed-forward blocks pay.",
        env="OPENLLM_COMPILE",
        choices=("auto", "on", "off"),
        group=ENGINE,
    )
    threads: int | None = setting(
        None, "Compute threads; default: measured.", env="OPENLLM_THREADS", ge=1, le=1024, group=ENGINE
    )
    quantize: str | None = setting(
        None,
        "int8 or int4: quantise the weights while loading (pt); gptq or awq: the checkpoint must be quantised so.",
        env="OPENLLM_QUANTIZE",
        choices=("int8", "int4", "gptq", "awq"),
        renamed=(("8bit", "int8"), ("4bit", "int4"), ("nf4", "int4")),
        group=ENGINE,
    )
    quantization: str | None = setting(
        None,
        "vllm: a method of its own, as fp8_per_channel while loading, or the checkpoint's where config.json does not say it.",
        env="OPENLLM_QUANTIZATION",
        group=ENGINE,
    )
    startup: str = setting(
        "balanced",
        "vllm: fast starts uncompiled; balanced compiles and keeps it for the next start; throughput favours many streams.",
        env="OPENLLM_STARTUP",
        choices=("fast", "balanced", "throughput"),
        group=ENGINE,
    )
    enforce_eager: bool = setting(
        False, "vllm: run the model as it is, neither compiled nor captured.", env="OPENLLM_ENFORCE_EAGER", group=ENGINE
    )
    gpu_memory_utilization: float | None = setting(
        None,
        "vllm: share of a GPU's (or NUMA node's) whole memory to use; default: sized from what is free.",
        env="OPENLLM_GPU_MEMORY_UTILIZATION",
        ge=0.01,
        le=1,
        group=ENGINE,
    )
    tensor_parallel_size: int | None = setting(
        None,
        "vllm: GPUs (or NUMA nodes) that share each layer; default: all devices of the engine.",
        env="OPENLLM_TENSOR_PARALLEL_SIZE",
        ge=1,
        le=1024,
        group=ENGINE,
    )
    speculative_config: str | None = setting(
        None,
        'vllm: speculative decoding, as its JSON object ({"method": "ngram", ...}).',
        env="OPENLLM_SPECULATIVE_CONFIG",
        group=ENGINE,
    )
    trust_remote_code: bool = setting(
        False, "Run Python code that the model folder carries.", typed_only=True, env="TRUST_REMOTE_CODE", group=ENGINE
    )
    allow_pickle_weights: bool = setting(
        False, "Convert weights stored as pickle, which can run code.", typed_only=True, group=ENGINE
    )
    serialisation: str = setting(
        "safetensors",
        "What weights may be stored as where they come from; legacy = --allow-pickle-weights.",
        typed_only=True,
        env="OPENLLM_SERIALIZATION",
        choices=("safetensors", "legacy"),
        group=ENGINE,
    )
    adapter_id: tuple[str, ...] = setting(
        (),
        "LoRA adapter to serve: a folder, a stored adapter or a hub id, with :NAME behind it; without a name it is "
        "the default one; repeatable.",
        env="OPENLLM_ADAPTER_ID",
        group=ADAPTERS,
    )
    max_adapters: int = setting(
        0,
        "Adapters that may be loaded at once; default: those of --adapter-id.",
        env="OPENLLM_MAX_ADAPTERS",
        ge=0,
        le=1024,
        group=ADAPTERS,
    )
    max_adapter_rank: int = setting(
        64,
        "Highest rank of an adapter; vllm sets memory aside for it.",
        env="OPENLLM_MAX_ADAPTER_RANK",
        ge=1,
        le=512,
        group=ADAPTERS,
    )
    embedding_model: str | None = setting(
        None,
        "Model that makes the embeddings, as MODEL; default: the served one, or all-MiniLM-L6-v2 where it has none.",
        env="OPENLLM_EMBEDDING_MODEL",
        group=ENGINE,
    )
    embed_only: bool = setting(False, "Load what makes embeddings and nothing that generates.", flag="")
    engine_arg: dict[str, Any] = setting(
        attrs.Factory(dict), "KEY=VALUE for the backend itself; repeatable.", flag="--engine-arg", group=ENGINE
    )

    @property
    def converts_pickle(self) -> bool:
        """Whether weights stored as pickle may be read, once, to be converted."""
        return self.allow_pickle_weights or self.serialisation == "legacy"


@attrs.frozen(kw_only=True)
class ServerOptions(Limits):
    """How the server process listens and ends; by which numbers it refuses, in `Limits`."""

    host: str = setting("127.0.0.1", "Address to listen on.", env="OPENLLM_HOST", group=SERVER)
    port: int = setting(3000, "Port to listen on.", env="OPENLLM_PORT", ge=0, le=65535, short="-p", group=SERVER)
    grpc_port: int | None = setting(
        None,
        "Port for gRPC beside HTTP, with the extra grpc; default: none.",
        env="OPENLLM_GRPC_PORT",
        ge=0,
        le=65535,
        group=SERVER,
    )
    http: bool = setting(True, "Serve HTTP; off where gRPC alone is served.", flag="")
    served_model_name: tuple[str, ...] = setting(
        (), "Name clients use in `model`; repeatable; default: folder basename, else the id.", group=SERVER
    )
    api_key: tuple[str, ...] = setting(
        (), "Keys that open every route, comma separated.", env="OPENLLM_API_KEY", flag="", secret=True, group=ACCESS
    )
    api_key_file: str = setting(
        "",
        "File of `openllm keys`: hashed keys with names, models and limits; read again whenever it changes.",
        env="OPENLLM_API_KEY_FILE",
        group=ACCESS,
    )
    admin_key: str = setting(
        "",
        "Key that may change what is served: the default adapter, and with --allow-adapter-load the loaded ones.",
        env="OPENLLM_ADMIN_KEY",
        flag="",
        secret=True,
        group=ACCESS,
    )
    allow_adapter_load: bool = setting(
        False,
        "Let requests load and unload stored adapters, by name.",
        env="OPENLLM_ALLOW_ADAPTER_LOAD",
        group=ADAPTERS,
    )
    no_auth: bool = setting(False, "Serve a public address without a key.", typed_only=True, group=ACCESS)
    ssl_certfile: str = setting(
        "", "Certificate (PEM): HTTP and gRPC are encrypted.", env="OPENLLM_SSL_CERTFILE", group=ACCESS
    )
    ssl_keyfile: str = setting("", "Its private key (PEM).", env="OPENLLM_SSL_KEYFILE", group=ACCESS)
    ssl_ca_certs: str = setting(
        "",
        "Authorities (PEM), one of which must have signed the certificate that each client shows.",
        env="OPENLLM_SSL_CA_CERTS",
        group=ACCESS,
    )
    ssl_keyfile_password: str = setting(
        "",
        "Password of the private key; the variable is the better place, since `ps` shows flags.",
        env="OPENLLM_SSL_KEYFILE_PASSWORD",
        secret=True,
        group=ACCESS,
    )
    ssl_version: str = setting(
        "", "Oldest TLS that is spoken: 1.2 or 1.3; default: 1.2.", env="OPENLLM_SSL_VERSION", group=ACCESS
    )
    ssl_cert_reqs: str = setting(
        "",
        "Whether clients must show a certificate: none, optional or required; default: required with --ssl-ca-certs.",
        env="OPENLLM_SSL_CERT_REQS",
        group=ACCESS,
    )
    ssl_ciphers: str = setting(
        "", "Ciphers of TLS 1.2 in OpenSSL's words; default: sound ones.", env="OPENLLM_SSL_CIPHERS", group=ACCESS
    )
    cors: tuple[str, ...] = setting(
        (),
        "Let web pages of any origin ask, without cookies; with ORIGIN only those of https://app.example.com and the like.",
        env="OPENLLM_CORS",
        bare="*",
        group=ACCESS,
    )
    strict: bool = setting(
        False,
        "Refuse unknown request fields instead of listing them in X-OpenLLM-Ignored.",
        env="OPENLLM_STRICT",
        group=ACCESS,
    )
    drain_grace: float = setting(
        30.0, "Seconds streams may go on after SIGTERM.", env="OPENLLM_DRAIN_GRACE", ge=0, le=3600, group=SERVER
    )
    engines: str = setting(
        "1",
        "Engines behind the port, each on devices of its own, the least busy first: a number, or all.",
        env="OPENLLM_ENGINES",
        group=ENGINE,
    )
    workers_per_resource: str | None = setting(
        None,
        "GPUs of one engine: round_robin = 1 = one, conserved = all, 0.5 = two, 2 = two engines a GPU; default: all.",
        env="OPENLLM_WORKERS_PER_RESOURCE",
        group=ENGINE,
    )
    restarts: int = setting(
        3, "Engine restarts within 10 minutes before giving up.", env="OPENLLM_RESTARTS", ge=0, le=100, group=SERVER
    )
    canary_interval: float = setting(
        600.0,
        "Seconds between two checks of an idle engine that it still answers a fixed prompt as it did after loading; one that "
        "does not is loaded anew. 0: never.",
        env="OPENLLM_CANARY_INTERVAL",
        ge=0,
        group=SERVER,
    )
    tool_call_parser: str = setting(
        "auto",
        "How the model writes tool calls; auto: as its family does, hermes where that says nothing.",
        env="OPENLLM_TOOL_CALL_PARSER",
        choices=("auto", "hermes", "llama3", "mistral", "qwen", "qwen3-coder", "deepseek", "gpt-oss"),
        group=SERVER,
    )
    reasoning_parser: str = setting(
        "auto",
        "How the model marks its reasoning, which goes to reasoning_content; auto: as its family does; none: left in the text.",
        env="OPENLLM_REASONING_PARSER",
        choices=("auto", "none", "qwen", "deepseek", "gpt-oss"),
        group=SERVER,
    )
    log_format: str = setting(
        "pretty",
        "The log on stderr: lines for people, or one JSON object a line.",
        env="OPENLLM_LOG_FORMAT",
        choices=("pretty", "json"),
        group=OBSERVING,
    )
    log_file: str = setting(
        "", "File for the log, in place of stderr; SIGHUP opens it anew.", env="OPENLLM_LOG_FILE", group=OBSERVING
    )
    log_prompts: bool = setting(False, "Write prompts and answers into the log.", typed_only=True, group=OBSERVING)
    metrics_port: int | None = setting(
        None,
        "Port for /metrics alone, on 127.0.0.1 and without a key; default: none.",
        env="OPENLLM_METRICS_PORT",
        ge=0,
        le=65535,
        group=OBSERVING,
    )


@attrs.frozen(kw_only=True)
class StoreOptions:
    """Where models are kept and where they may come from."""

    home: str = setting("~/bentoml", "Root of the model store.", env="BENTOML_HOME", flag="", group="Store")
    offline: bool = setting(False, "Make no connection to any hub.", env="HF_HUB_OFFLINE", flag="", group="Store")
    fast: bool = setting(
        False,
        "Take the newest stored model as it is: nothing is checked, nothing fetched.",
        env="OPENLLM_USE_LOCAL_LATEST",
        group="Store",
    )
    bento_path: str = setting("", "Root of the Bento this process runs in.", env="BENTO_PATH", flag="", group="Store")
    lock_timeout: float = setting(
        600.0,
        "Seconds to wait for another process that imports the same model.",
        env="OPENLLM_LOCK_TIMEOUT",
        ge=0,
        group="Store",
    )


def as_data(options: EngineOptions) -> dict[str, Any]:
    """Plain data for the first frame to the engine host."""
    return attrs.asdict(options)


def from_data(data: dict[str, Any]) -> EngineOptions:
    """Inverse of `as_data`.

    Raises:
        InvalidSetting: an unknown key, or a value of a wrong type; both ends are one version, so either is a fault.
    """
    try:
        return _converter().structure(data, EngineOptions)
    except Exception as error:  # cattrs raises a group of whatever its hooks raised
        explain: Any = import_module("cattrs").transform_error  # cattrs leaves part of its type open
        faults = "; ".join(explain(error, path="options"))
        raise InvalidSetting(f"These are no engine options: {faults}.") from error


@functools.cache
def _converter() -> "Converter":
    """Plain data to options, without guesses: every value has its field's type already."""
    from cattrs import Converter  # takes longer to import than all of core, and only the host needs it

    made = Converter(forbid_extra_keys=True)
    for kind in (bool, int, float, str):
        made.register_structure_hook(kind, _of_type)
    return made


def _of_type(value: Any, kind: type[Any]) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
