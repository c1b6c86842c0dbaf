"""What is wrong with an answer to one body, if anything: the rules of every refusal, in one place.

`fault_of` is pure: a case, what the schemas say of it, and the answer. The rules that stand between fields, or between a
field and the model that is served, are listed here with the reason why no schema of one field can hold them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from .cases import Case, Path
from .site import Answered
from .values import FILLER

MOST_ERROR_BYTES = 8 * 1024
MOST_REPEATED_CHARS = 200
KINDS = {"invalid_request_error", "rate_limit_error", "service_unavailable_error", "server_error"}
WHOLE_BODY = {"invalid_json", "json_too_deep", "content_too_large"}

BETWEEN_FIELDS: Mapping[str, str] = {
    "unsupported_parameter": "the table of fields and backends: this backend cannot do it, and only its neutral value passes",
    "unsupported_value": "a form that this model or backend cannot follow",
    "model_not_found": "the names that are served are no part of the document",
    "adapter_not_found": "nor are those of adapters",
    "adapters_disabled": "adapters are a setting of the server",
    "context_length_exceeded": "the model's context, in its own tokens",
    "content_too_large": "bytes of the whole body",
}
"""Codes of refusals that no schema of one field can foresee -> why."""

BY_FIELD: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?min_(new_)?tokens|(.*\.)?min_length", "at most max_tokens, which is another field or the context"),
    (r"(.*\.)?best_of", "only equal to n"),
    (r"stream_options", "only with stream"),
    (r"logprobs|top_logprobs|(.*\.)?logprobs", "top_logprobs needs logprobs; logprobs and echo exclude each other"),
    (
        r"(.*\.)?(guided_\w+|response_format|structured_outputs)(\W.*)?",
        "one form at a time, and one that can be compiled",
    ),
    (r"tool_choice.*|tools.*", "names one of the tools; schemas of tools must be such"),
    (r"(.*\.)?(max_tokens|max_new_tokens|max_completion_tokens|num_return_sequences|n)", "two names that must agree"),
    (r"(.*\.)?(max_tokens|max_new_tokens|max_completion_tokens)", "within what is left of the context"),
    (
        r"prompt.*|input.*|messages.*",
        "not empty, ids of the model's own, as many as fit; roles and parts that go together",
    ),
    (r"dimensions", "at most those of the model"),
    (r"(.*\.)?(stop_token_ids|logit_bias|eos_token_id|suppress_tokens).*", "ids of the model's own vocabulary"),
    (r"adapter_name", "a name that adapters may have"),
    (r"inputs", "not empty for this model"),
)
"""Fields whose value may be refused though the schema allows it -> why."""


def fault_of(case: Case, refused_because: str | None, answer: Answered) -> str | None:
    """What is wrong with an answer; None where all is as it must be.

    Args:
        refused_because: what `Reading.refuses` says.
    """
    if answer.status >= 500:
        return f"{answer.status}: {answer.body[:300]!r}"
    if answer.status < 300:
        if refused_because is not None:
            return f"wrongly accepted: {refused_because}"
        return stream_fault(answer)
    fault = shape_fault(answer)
    if fault is not None:
        return fault
    error = answer.json["error"]
    if not param_fits(error, case.paths):
        return f"names {error['param']!r}, which is none of {case.name[:80]!r}: {error['message'][:120]}"
    if refused_because is None and not foreseen(error):
        return f"wrongly refused: {error['code']} {error['message'][:160]}"
    return None


def shape_fault(answer: Answered) -> str | None:
    """How a refusal differs from the one shape there is."""
    if answer.headers.get("content-type") != "application/json" or "x-request-id" not in answer.headers:
        return f"headers of a refusal: {answer.headers}"
    if len(answer.body) > MOST_ERROR_BYTES:
        return f"a refusal of {len(answer.body)} bytes"
    body = orjson.loads(answer.body)
    if set(body) != {"error"} or set(body["error"]) != {"message", "type", "param", "code"}:
        return f"shape of a refusal: {body}"
    error = body["error"]
    if error["type"] not in KINDS or not isinstance(error["code"], str) or not isinstance(error["message"], str):
        return f"types in a refusal: {error}"
    if not isinstance(error["param"], str | None):
        return f"param: {error['param']!r}"
    if not error["message"].strip() or "\n" in error["message"]:
        return f"a message of one line it is not: {error['message']!r}"
    if "Traceback" in error["message"] or re.search(r"/(home|usr|tmp|work)/", error["message"]):
        return f"tells of the inside: {error['message']!r}"
    if (repeated := answer.body.decode().count(FILLER)) > MOST_REPEATED_CHARS:
        return f"repeats {repeated} characters of the request"
    return None


def stream_fault(answer: Answered) -> str | None:
    """How an answer that began fails to be whole."""
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        return None if answer.headers["content-type"].startswith("text/plain") or _is_json(answer.body) else "no JSON"
    if b'data: {"error"' in answer.body:
        return f"an error within the stream: {answer.body[-300:]!r}"
    return None if answer.body.endswith(b"data: [DONE]\n\n") else f"a stream without its end: {answer.body[-200:]!r}"


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except ValueError:
        return False
    return True


def foreseen(error: Mapping[str, Any]) -> bool:
    """Whether a refusal of what the schema allows is one of those listed above."""
    if error["code"] in BETWEEN_FIELDS:
        return True
    return any(re.fullmatch(pattern, error["param"] or "") for pattern, _ in BY_FIELD)


def param_fits(error: Mapping[str, Any], paths: tuple[Path, ...]) -> bool:
    """Whether a refusal names a field that was changed, one around it or one inside it."""
    if error["param"] is None:
        return error["code"] in WHOLE_BODY or () in paths or any(len(path) == 1 for path in paths)
    told = parts_of(error["param"])
    for path in paths:
        changed = tuple(str(part) for part in path)
        shorter = min(len(told), len(changed))
        if told[:shorter] == changed[:shorter]:
            return True
    return any(re.fullmatch(pattern, error["param"]) for pattern, _ in BY_FIELD)


def parts_of(param: str) -> tuple[str, ...]:
    """`messages[0].role` in its parts."""
    return tuple(part for part in re.split(r"[.\[\]]+", param) if part)
