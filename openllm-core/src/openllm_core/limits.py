"""Limits: what one connection, one request and the waiting line may cost at most. One `setting(...)` line each.

`ServerOptions` has them all, so that flags, variables, the configuration file and `openllm doctor` know them. HTTP and gRPC
refuse by the first group, the service by the second, the engine by the third; none of them is known here.
"""

import attrs

from .settings import setting

LIMITS = "Limits"


@attrs.frozen(kw_only=True)
class Limits:
    """Every number a server refuses by that an operator may choose."""

    # -- a connection and the bytes of a request ----------------------------------------------------------------------

    max_connections: int = setting(
        1024,
        "Connections at once; one more is told 503 and closed.",
        env="OPENLLM_MAX_CONNECTIONS",
        ge=1,
        le=1_000_000,
        group=LIMITS,
    )
    max_request_line: int = setting(
        8 * 1024,
        "Bytes of a request's path and query.",
        env="OPENLLM_MAX_REQUEST_LINE",
        ge=256,
        le=1 << 20,
        group=LIMITS,
    )
    max_headers: int = setting(100, "Headers of a request.", env="OPENLLM_MAX_HEADERS", ge=8, le=10_000, group=LIMITS)
    max_header_bytes: int = setting(
        32 * 1024,
        "Bytes of a request's headers together; of a gRPC call's metadata, too.",
        env="OPENLLM_MAX_HEADER_BYTES",
        ge=1024,
        le=1 << 20,
        group=LIMITS,
    )
    header_timeout: float = setting(
        10.0,
        "Seconds a request's headers may take to arrive.",
        env="OPENLLM_HEADER_TIMEOUT",
        ge=0.05,
        le=3600,
        group=LIMITS,
    )
    max_body: int = setting(
        10 * 1024 * 1024,
        "Bytes of a request body, or of a gRPC message.",
        env="OPENLLM_MAX_BODY",
        ge=1024,
        le=1 << 31,
        group=LIMITS,
    )
    body_timeout: float = setting(
        30.0,
        "Seconds a request's body may take to arrive.",
        env="OPENLLM_BODY_TIMEOUT",
        ge=0.05,
        le=86400,
        group=LIMITS,
    )
    min_body_rate: int = setting(
        1024,
        "Bytes a second that a body must bring; one that stays below for 10 s is given up. 0: any rate will do.",
        env="OPENLLM_MIN_BODY_RATE",
        ge=0,
        le=1 << 30,
        group=LIMITS,
    )
    keep_alive: int = setting(
        5,
        "Seconds an idle connection is kept open for another request.",
        env="OPENLLM_KEEP_ALIVE",
        ge=1,
        le=3600,
        group=LIMITS,
    )
    stall_timeout: float = setting(
        30.0,
        "Seconds a client may take nothing of its stream.",
        env="OPENLLM_STALL_TIMEOUT",
        ge=0.1,
        le=3600,
        group=LIMITS,
    )
    ping_interval: float = setting(
        15.0, "Seconds of silence on a stream before a comment line.", env="OPENLLM_PING_INTERVAL", ge=1, group=LIMITS
    )

    # -- what a request may ask for -----------------------------------------------------------------------------------

    max_json_depth: int = setting(
        64, "Arrays and objects within each other in a body.", env="OPENLLM_MAX_JSON_DEPTH", ge=8, le=256, group=LIMITS
    )
    max_n: int = setting(16, "Choices of one request (n).", env="OPENLLM_MAX_N", ge=1, le=128, group=LIMITS)
    max_prompts: int = setting(
        128, "Prompts of one completion request.", env="OPENLLM_MAX_PROMPTS", ge=1, le=4096, group=LIMITS
    )
    max_messages: int = setting(
        4096, "Messages of one conversation.", env="OPENLLM_MAX_MESSAGES", ge=1, le=1 << 20, group=LIMITS
    )
    max_stops: int = setting(4, "Stop strings of one request.", env="OPENLLM_MAX_STOPS", ge=0, le=1024, group=LIMITS)
    max_stop_bytes: int = setting(
        256, "Bytes of one stop string.", env="OPENLLM_MAX_STOP_BYTES", ge=1, le=1 << 16, group=LIMITS
    )
    max_logprobs: int = setting(
        20,
        "Likely tokens shown beside each (logprobs, top_logprobs).",
        env="OPENLLM_MAX_LOGPROBS",
        ge=0,
        le=20,
        group=LIMITS,
    )
    max_guide_bytes: int = setting(
        16 * 1024,
        "Bytes of a JSON schema, regular expression, list of choices or grammar.",
        env="OPENLLM_MAX_GUIDE_BYTES",
        ge=64,
        le=1 << 16,
        group=LIMITS,
    )
    max_embedding_inputs: int = setting(
        2048, "Texts of one embedding request.", env="OPENLLM_MAX_EMBEDDING_INPUTS", ge=1, le=1 << 20, group=LIMITS
    )
    max_tokens_default: int = setting(
        1024,
        "Tokens generated when a chat or completion request does not say.",
        env="OPENLLM_MAX_TOKENS_DEFAULT",
        ge=1,
        group=LIMITS,
    )

    # -- time and the waiting line ------------------------------------------------------------------------------------

    server_timeout: float = setting(
        600.0, "Deadline of one request, seconds.", env="OPENLLM_SERVER_TIMEOUT", ge=1, le=86400, group=LIMITS
    )
    max_queue: int | None = setting(
        None, "Requests that may wait; default 2 x slots, at least 16.", env="OPENLLM_MAX_QUEUE", ge=1, group=LIMITS
    )
    queue_timeout: float = setting(
        30.0, "Seconds a request may wait for a slot.", env="OPENLLM_QUEUE_TIMEOUT", ge=0.1, le=3600, group=LIMITS
    )
    overload_status: int = setting(
        503,
        "HTTP status of a refusal for load: 503 or 429.",
        env="OPENLLM_OVERLOAD_STATUS",
        choices=("503", "429"),
        group=LIMITS,
    )
