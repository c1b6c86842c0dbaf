"""Wire fields that say what the text must be -> one `Guide`: `response_format`, `guided_*` and `structured_outputs`.

Called by `requests` for every route. Checks form and size; whether a schema or grammar can be compiled is the backend's
to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from ..config.guide import Guide, GuideKind
from ..errors import InvalidRequest

GUIDE_FIELDS = (
    "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
)  # fmt: skip
MAX_GUIDE_BYTES = 65536
MAX_GUIDE_CHOICES = 1024

_BY_NAME: dict[str, GuideKind] = {
    "guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar",
}  # fmt: skip


def guide_of(values: Mapping[str, Any], paths: Mapping[str, str] | None = None) -> Guide | None:
    """The guide that a request's fields ask for; None when they ask for none.

    Args:
        values: fields by name; others than GUIDE_FIELDS are passed over.
        paths: where each was sent, for messages; default: its name.

    Raises:
        InvalidRequest: malformed, too large, or more than one; `param` names the field.
    """
    found: list[Guide] = []
    for name in GUIDE_FIELDS:
        value = values.get(name)
        if not value and value != "":
            continue
        path = (paths or {}).get(name, name)
        if name == "response_format":
            guide = _of_response_format(value, path)
        elif name == "structured_outputs":
            guide = _of_structured_outputs(value, path)
        else:
            guide = _guide(_BY_NAME[name], value, path)
        if guide is not None:
            found.append(guide)
    if len(found) > 1:
        raise InvalidRequest(f"{found[1].param} and {found[0].param} exclude each other.", param=found[1].param)
    return found[0] if found else None


def _of_response_format(value: Any, path: str) -> Guide | None:
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Guide("json_object", "", path)
    if kind != "json_schema":
        raise InvalidRequest(
            f"{path}.type must be text, json_object or json_schema.", param=f"{path}.type", code="invalid_value"
        )
    named: Any = given.get("json_schema")
    schema = cast("dict[str, Any]", named).get("schema") if isinstance(named, dict) else None
    if schema is None:
        where = f"{path}.json_schema.schema"
        raise InvalidRequest(f"{where} is required.", param=where, code="missing_required_parameter")
    return _guide("json", schema, f"{path}.json_schema.schema")


def _of_structured_outputs(value: Any, path: str) -> Guide:
    entries = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    stated = {name: entry for name, entry in entries.items() if entry is not None and entry is not False}
    name, entry = next(iter(stated.items()), ("", None))
    if len(stated) != 1 or name not in ("json", "json_object", "regex", "choice", "grammar"):
        raise InvalidRequest(f"{path} must hold one of json, json_object, regex, choice, grammar.", param=path)
    if name == "json_object":
        return Guide("json_object", "", f"{path}.{name}")
    return _guide(cast(GuideKind, name), entry, f"{path}.{name}")


def _guide(kind: GuideKind, value: Any, path: str) -> Guide:
    if kind == "choice":
        return Guide(kind, _choices(value, path), path)
    if kind == "json":
        value = _schema(value, path)
    if not isinstance(value, str):
        raise InvalidRequest(f"{path} must be a string.", param=path, code="invalid_type")
    if not value.strip():
        raise InvalidRequest(f"{path} must not be empty.", param=path, code="string_below_min_length")
    if len(value.encode()) > MAX_GUIDE_BYTES:
        raise InvalidRequest(
            f"{path} must have at most {MAX_GUIDE_BYTES} bytes.", param=path, code="string_above_max_length"
        )
    return Guide(kind, value, path)


def _schema(value: Any, path: str) -> str:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise InvalidRequest(f"{path} is not JSON.", param=path, code="invalid_value") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path} must be a JSON schema, an object.", param=path, code="invalid_type")
    return orjson.dumps(value).decode()


def _choices(value: Any, path: str) -> tuple[str, ...]:
    texts = cast("list[Any]", value) if isinstance(value, list) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest(f"{path} must be a list of texts, none empty.", param=path, code="invalid_type")
    if len(texts) > MAX_GUIDE_CHOICES or sum(len(text.encode()) for text in texts) > MAX_GUIDE_BYTES:
        raise InvalidRequest(
            f"{path} must have at most {MAX_GUIDE_CHOICES} texts of {MAX_GUIDE_BYTES} bytes together.",
            param=path,
            code="array_above_max_length",
        )
    return tuple(texts)
